"""Start the perception node with a profile: `ros2 launch segzero_ros perception.launch.py`.

What is given on the command line goes before `params_file`, and that before the profile's file in
`config/`; an argument left empty changes nothing. `--show-args` lists them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PROFILES = ['robot', 'remote', 'offline', 'mini']
SWITCH = ['true', 'false', 'True', 'False']
# The namespace that the displays of rviz/perception.rviz are set to, and what they show.
RVIZ_NAMESPACE = '/segzero'
RVIZ_TOPICS = ['overlay', 'label_image', 'markers', 'object_points', 'points', 'target_pose']
# Seconds before a node that died is started again.
RESPAWN_DELAY = 2.0


class Argument(NamedTuple):
    """A launch argument; without choices it may be anything."""

    name: str
    description: str
    default: str = ''
    choices: list[str] | None = None


ARGUMENTS = [
    Argument(
        'profile',
        'Which config/<profile>.yaml: `robot` runs the published models in this process, with a '
        'GPU and the weights; `remote` asks an OpenAI-compatible server; `offline` needs neither; '
        '`mini` runs the small model that comes with the package.',
        'robot',
        PROFILES,
    ),
    Argument('image', "The camera's image topic, such as /camera/image_raw."),
    Argument(
        'depth',
        'Depth registered to the image: 16UC1 in mm, 32FC1 in m, or its …/compressedDepth.',
    ),
    Argument('camera_info', 'The intrinsics; empty with `image` given: camera_info beside it.'),
    Argument(
        'image_transport',
        'With `compressed`, /compressed is added to the topic `image` where its name does not say '
        'so. The node follows the type of the topic whatever its name.',
        choices=['', 'raw', 'compressed'],
    ),
    Argument('reasoner_model', 'Hub name, local folder or served name of the reasoning model.'),
    Argument('segmenter_model', 'Hub name or local checkpoint of the segmenter.'),
    Argument(
        'fast_lane',
        'SAM 3 answers plain noun phrases ("red mug") without the reasoner, and makes the masks; '
        '`segmenter_model` is its checkpoint.',
        '',
        ['', *SWITCH],
    ),
    Argument('device', 'Where the models run: auto, cpu, cuda, cuda:1 …'),
    Argument('base_url', 'The OpenAI-compatible server, such as http://server:8000/v1.'),
    Argument(
        'serve',
        'Start a server of the reasoning model on this machine, on a free port, before the node, '
        'and end it with the node; `reasoner_model` is its checkpoint, a GGUF file for '
        '`llama_cpp`. For profile:=remote, in place of `base_url`.',
        '',
        ['', 'llama_cpp', 'vllm'],
    ),
    Argument('serve_args', 'More arguments for that server, as on its command line.'),
    Argument('params_file', "Your own parameters, a YAML file laid over the profile's."),
    Argument('namespace', 'The namespace of the node and of all that it publishes.', 'segzero'),
    Argument('track', 'Follow the objects of an answer through later images.', '', ['', *SWITCH]),
    Argument(
        'target_frame',
        'The frame of all poses and clouds, such as base_link, by the transforms on /tf; empty: '
        "the camera's optical frame.",
    ),
    Argument(
        'broadcast_tf',
        'Publish the objects as frames <namespace>_object_<id> on /tf.',
        '',
        ['', *SWITCH],
    ),
    Argument('autostart', 'Configure and activate the node at once.', '', ['', *SWITCH]),
    Argument(
        'log_level',
        "The node's log level.",
        'info',
        ['debug', 'info', 'warn', 'error', 'fatal'],
    ),
    Argument(
        'rviz', 'Start RViz with the overlay, the labels and the 3-D boxes.', 'false', SWITCH
    ),
    Argument(
        'voice',
        'Start the node that turns speech into queries, config/voice.yaml; `topic`: with the '
        'sound of the topic `audio`.',
        'false',
        [*SWITCH, 'topic'],
    ),
    Argument(
        'audio', 'The topic that `voice:=topic` hears; `audio_info` is looked for beside it.'
    ),
    Argument(
        'fixed_frame',
        'What RViz shows everything in: a frame that the frame of the images is connected to on '
        "/tf, or that frame itself. The root of camera_sim's and of a RealSense's is camera_link.",
        'camera_link',
    ),
    Argument(
        'respawn',
        'Start the nodes again when they die; Ctrl-C still ends them.',
        'false',
        SWITCH,
    ),
    Argument('use_sim_time', 'Take the time from /clock (a simulator, a bag).', '', ['', *SWITCH]),
]
# Arguments that set parameters of the node.
TEXT_PARAMETERS = {
    'reasoner_model': 'reasoner.model',
    'segmenter_model': 'segmenter.model',
    'device': 'device',
    'base_url': 'server.base_url',
    'target_frame': 'target_frame',
}
SWITCHES = ['track', 'broadcast_tf', 'autostart', 'use_sim_time']


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=argument.choices,
        )
        for argument in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext) -> list[Node]:
    """Return the nodes that the arguments ask for."""
    given = {
        argument.name: LaunchConfiguration(argument.name).perform(context)
        for argument in ARGUMENTS
    }
    share = Path(get_package_share_directory('segzero_ros'))
    before, served = serve(given)
    nodes = [perception(given | served, share, before)]
    if is_on(given['rviz']):
        nodes.append(rviz(given, share))
    if is_on(given['voice']) or given['voice'] == 'topic':
        nodes.append(voice(given, share))
    return nodes


def serve(given: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return what goes before the command of the node to start a server, and its address."""
    if not given['serve']:
        if given['serve_args']:
            raise ValueError('serve_args are for a server that serve:=llama_cpp or vllm starts')
        return '', {}
    if given['profile'] != 'remote':
        raise ValueError(f'serve:={given["serve"]} goes with profile:=remote only')
    if given['base_url']:
        raise ValueError(
            f'serve:={given["serve"]} starts a server of its own, and base_url names another one; '
            'give one of the two'
        )
    # Only here: whoever needs no server should not depend on it.
    from segzero_ros import serving

    port = serving.free_port()
    before = serving.prefix(given['serve'], given['reasoner_model'], port, given['serve_args'])
    return before, {'base_url': serving.base_url(port)}


def perception(given: dict[str, str], share: Path, before: str = '') -> Node:
    logger = '.'.join([*(part for part in given['namespace'].split('/') if part), 'perception'])
    return Node(
        package='segzero_ros',
        executable='perception_node',
        name='perception',
        namespace=given['namespace'],
        parameters=[*params_files(given, share), parameters(given)],
        remappings=list(remappings(given).items()),
        arguments=['--ros-args', '--log-level', f'{logger}:={given["log_level"]}'],
        prefix=before,
        output='screen',
        emulate_tty=True,
        **respawning(given),
    )


def voice(given: dict[str, str], share: Path) -> Node:
    files = [str(share / 'config' / 'voice.yaml'), *params_files(given, share)[1:]]
    said: dict[str, Any] = {'source': 'topic'} if given['voice'] == 'topic' else {}
    if given['use_sim_time']:
        said['use_sim_time'] = is_on(given['use_sim_time'])
    return Node(
        package='segzero_ros',
        executable='voice_node',
        name='voice',
        namespace=given['namespace'],
        parameters=[*files, said] if said else files,
        remappings=list(voice_remappings(given['audio']).items()),
        output='screen',
        emulate_tty=True,
        **respawning(given),
    )


def respawning(given: dict[str, str]) -> dict[str, Any]:
    """Return what launch is told about a node that dies."""
    return {'respawn': is_on(given['respawn']), 'respawn_delay': RESPAWN_DELAY}


def rviz(given: dict[str, str], share: Path) -> Node:
    return Node(
        package='rviz2',
        executable='rviz2',
        name='rviz',
        namespace=given['namespace'],
        arguments=rviz_arguments(given, share),
        parameters=[{'use_sim_time': is_on(given['use_sim_time'])}],
        remappings=rviz_remappings(given['namespace']),
        output='log',
    )


def rviz_arguments(given: dict[str, str], share: Path) -> list[str]:
    """Return rviz2's command line: the displays, and the frame to show them in."""
    displays = ['-d', str(share / 'rviz' / 'perception.rviz')]
    return [*displays, '-f', given['fixed_frame']] if given['fixed_frame'] else displays


def rviz_remappings(namespace: str) -> list[tuple[str, str]]:
    """Return what makes the displays look into another namespace."""
    prefix = f'/{namespace.strip("/")}'.rstrip('/')
    if prefix == RVIZ_NAMESPACE:
        return []
    return [(f'{RVIZ_NAMESPACE}/{topic}', f'{prefix}/{topic}') for topic in RVIZ_TOPICS]


def params_files(given: dict[str, str], share: Path) -> list[str]:
    """Return the profile's file and the user's own; the later one overrules."""
    files = [share / 'config' / f'{given["profile"]}.yaml']
    if given['params_file']:
        own = Path(given['params_file']).expanduser().absolute()
        if not own.is_file():
            raise FileNotFoundError(f'params_file: there is no file {own}')
        files.append(own)
    return [str(file) for file in files]


def parameters(given: dict[str, str]) -> dict[str, Any]:
    """Return the node's parameters that were given as arguments, in their own types."""
    texts = {name: given[argument] for argument, name in TEXT_PARAMETERS.items()}
    switches = {name: is_on(given[name]) for name in SWITCHES if given[name]}
    if is_on(given['fast_lane']):
        texts['segmenter.backend'] = 'sam3_fast_lane'
    return {name: text for name, text in texts.items() if text} | switches


def remappings(given: dict[str, str]) -> dict[str, str]:
    """Return the node's own names of the topics that were given, and where they are."""
    topics = {name: given[name] for name in ('image', 'depth', 'camera_info') if given[name]}
    image = topics.get('image', '')
    if image and 'camera_info' not in topics:
        picture = image.removesuffix('/compressed')
        topics['camera_info'] = picture.removesuffix(last_word(picture)) + 'camera_info'
    if image and given['image_transport'] == 'compressed' and 'compressed' not in last_word(image):
        topics['image'] = f'{image}/compressed'
    return topics


def voice_remappings(audio: str) -> dict[str, str]:
    """Return the voice's own names of its topics, and where they are."""
    if not audio:
        return {}
    return {'audio': audio, 'audio_info': audio.removesuffix(last_word(audio)) + 'audio_info'}


def last_word(topic: str) -> str:
    return topic.rsplit('/', 1)[-1]


def is_on(switch: str) -> bool:
    return switch.lower() == 'true'
