"""Generated table-top scenes with complete ground truth."""

from segzero_ros.simulation.motion import make_motion
from segzero_ros.simulation.scenes import make_scene, Scene, SceneObject, Sentence

__all__ = ['Scene', 'SceneObject', 'Sentence', 'make_motion', 'make_scene']
