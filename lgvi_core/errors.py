"""The one error that is the user's to mend."""


class InputError(ValueError):
    """What the user gave cannot be used; the message names the value, what is allowed and what to do."""
