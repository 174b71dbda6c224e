"""What a model may tell the gates of itself. Everything is optional: gates ask with `getattr`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from seriatim.modeling.initialisation import LayerStart


@runtime_checkable
class TellsInitialLosses(Protocol):
    """A model that knows what its losses should be before it has learnt anything."""

    def expected_initial_losses(
        self, batch: list[dict[str, Any]]
    ) -> dict[str, tuple[float, float]]:
        """Name of a loss → lowest and highest healthy value on `batch` at initialisation."""
        ...


@runtime_checkable
class TellsParametersWithoutGradient(Protocol):
    """A model with trainable parameters that may rightly get no gradient in a step."""

    def parameters_without_gradient(self) -> Iterable[str]:
        """Their names, as in `named_parameters`; a trailing * stands for anything."""
        ...


@runtime_checkable
class MixesSamples(Protocol):
    """A model that trains on mixtures of samples. Gates ask of single images: they set `mixer` to
    None, and the model then trains on its samples as they are."""

    mixer: Any


@runtime_checkable
class TellsItsInitialisation(Protocol):
    """A model that knows how the weights of its layers should be distributed at the start."""

    def initialisation_report(self) -> list[LayerStart]:
        """Each layer's root mean square, as measured and by theory."""
        ...
