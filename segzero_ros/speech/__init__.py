"""From sound to sentences: sources of sound, where speech begins and ends, what it says.

Knows nothing of ROS. Each engine's library is imported only inside its own module.
"""
