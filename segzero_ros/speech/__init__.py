"""Speech recognition: audio sources, voice activity detection, recognisers.

Independent of ROS. Each engine's library is imported only in its own module.
"""
