"""segzero_ros: ask a robot's camera in plain language.

The modules written by hand and the interfaces that rosidl generates (``msg``, ``srv``,
``action``) live in different folders until they are installed; this joins them.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
