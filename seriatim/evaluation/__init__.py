"""How good the detections are, in the field's own measures."""
