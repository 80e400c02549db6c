"""What Sphinx needs beside rosdoc2's own settings: links to headings."""

extensions = ['myst_parser']
myst_heading_anchors = 3
