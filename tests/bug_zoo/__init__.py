"""Silent bugs planted on purpose: which of them do the gates catch, and do they cry wolf?"""
