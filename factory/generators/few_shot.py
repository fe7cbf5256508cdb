"""stub"""


class Examples:
    pass
