"""A release of rclpy without a private name that is needed is refused in one sentence."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.action.server import ServerGoalHandle
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode, LifecycleNodeMixin
from rclpy.node import Node

from segzero_ros.ros import background_node, lifecycle
from segzero_ros.ros.background_node import BackgroundNode, ThreadSafeActionClient
from segzero_ros.ros.lifecycle import AsyncLifecycleNode
from segzero_ros.ros.rclpy_internals import private, UnsupportedRclpy

ROOM = Path(lifecycle.__file__).parent
SCRIPTS = ROOM.parents[1] / 'scripts'
# What else is taken from rclpy's inside than by `private`.
ELSEWHERE = {'_update_state'}
# Documented by Python, all the same.
OF_PYTHON = {'_exit', '_current_frames', '_replace'}


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def renamed(name: str) -> Callable[..., None]:
    """Return what renames an attribute of a node as soon as rclpy has set it."""
    init = Node.__init__ if name == '_parameter_overrides' else LifecycleNodeMixin.__init__

    def wrapped(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        setattr(self, f'new{name}', self.__dict__.pop(name))

    return wrapped


@pytest.mark.parametrize('name', lifecycle.OVERRIDDEN)
def test_a_lifecycle_whose_transitions_cannot_be_replaced_is_refused(
    context: Context, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(LifecycleNodeMixin, name)
    with pytest.raises(UnsupportedRclpy, match=rf'has no LifecycleNodeMixin\.{name}, which'):
        AsyncLifecycleNode('refused', context=context)


def test_a_lifecycle_without_its_state_machine_is_refused(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LifecycleNodeMixin, '__init__', renamed('_state_machine'))
    with pytest.raises(
        UnsupportedRclpy, match=r'has no AsyncLifecycleNode\._state_machine, which'
    ):
        AsyncLifecycleNode('refused', context=context)


@pytest.mark.parametrize('name', background_node.OVERRIDDEN)
def test_an_action_client_that_sends_in_another_way_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from segzero_ros.action import Segment

    monkeypatch.delattr(ActionClient, name)
    with (
        BackgroundNode('refused') as node,
        pytest.raises(UnsupportedRclpy, match=rf'has no ActionClient\.{name}, which'),
    ):
        ThreadSafeActionClient(node.node, Segment, 'segment')


def test_the_sentence_names_the_release_and_the_cure() -> None:
    with pytest.raises(UnsupportedRclpy) as error:
        private(Node, '_nothing')
    said = str(error.value)
    assert said.startswith('rclpy ')
    assert 'Node._nothing' in said
    assert '7.1 of Jazzy and 9.1 of Kilted' in said
    assert '\n' not in said
    assert error.value.__suppress_context__


@pytest.mark.parametrize('program', ['perception_node', 'voice_node', 'camera_sim'])
def test_a_program_ends_with_the_sentence_and_no_traceback(program: str) -> None:
    if program == 'voice_node':
        pytest.importorskip('pocketsphinx', reason='needs pocketsphinx')
    source = f"""
import runpy
from rclpy.node import Node
init = Node.__init__
def renamed(self, *args, **options):
    init(self, *args, **options)
    self.new_parameter_overrides = self.__dict__.pop('_parameter_overrides')
Node.__init__ = renamed
runpy.run_path({str(SCRIPTS / program)!r}, run_name='__main__')
"""
    done = subprocess.run(
        [sys.executable, '-c', source], capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (1, 2)
    said = done.stdout + done.stderr
    assert '._parameter_overrides, which segzero_ros needs' in said
    assert 'Traceback' not in said


def test_what_is_leant_on_is_there() -> None:
    for owner, names in (
        (LifecycleNodeMixin, lifecycle.OVERRIDDEN),
        (ActionClient, background_node.OVERRIDDEN),
        (ServerGoalHandle, ELSEWHERE),
    ):
        for name in names:
            assert callable(private(owner, name))


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOM.glob('*.py')):
        yield path.name, ast.parse(path.read_text())


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.endswith('__')


def test_nothing_else_of_rclpys_inside_is_used() -> None:
    """Private attributes are the own ones of the module's classes, or asked for by `private`."""
    foreign = set()
    for module, tree in trees():
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        own = {each.attr for each in attributes if isinstance(each.ctx, ast.Store)}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}
        foreign |= {
            (module, each.attr)
            for each in attributes
            if is_private(each.attr) and each.attr not in own
        }
    assert {name for _, name in foreign} <= ELSEWHERE | OF_PYTHON, foreign


def test_only_what_is_meant_is_replaced_in_rclpys_classes(context: Context) -> None:
    """A private name of ours that a newer rclpy uses too would break it in silence."""
    meant = {*lifecycle.OVERRIDDEN, *background_node.OVERRIDDEN}
    lifecycle_node = LifecycleNode('plain', context=context)
    theirs = {name for name in dir(lifecycle_node) if is_private(name)}
    theirs |= {name for name in dir(ActionClient) if is_private(name)}
    for module, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef) or not subclasses_rclpy(node):
                continue
            ours = {each.name for each in node.body if hasattr(each, 'name')}
            ours |= {
                each.attr
                for each in ast.walk(node)
                if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
            }
            assert {name for name in ours if is_private(name)} & theirs <= meant, module


def subclasses_rclpy(node: ast.ClassDef) -> bool:
    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return bool(bases & {'Node', 'LifecycleNodeMixin', 'AsyncLifecycleNode', 'ActionClient'})
