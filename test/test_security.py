"""What must never stand in the code, whoever writes it: ways for data to become code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ('segzero_ros', 'launch', 'scripts', 'benchmarks')
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py'))
FILES += [ROOT / 'scripts' / name for name in ('perception_node', 'camera_sim', 'segzero')]

# Functions that run, or build objects from, whatever they are given.
FORBIDDEN = {
    'eval', 'exec', 'compile', '__import__', 'ast.literal_eval', 'literal_eval',
    'pickle.load', 'pickle.loads', 'pickle.Unpickler', 'marshal.load', 'marshal.loads',
    'shelve.open', 'dill.load', 'dill.loads', 'joblib.load', 'cloudpickle.load',
    'cloudpickle.loads', 'yaml.load', 'yaml.load_all', 'yaml.unsafe_load', 'yaml.full_load',
    'yaml.unsafe_load_all', 'yaml.full_load_all', 'os.system', 'os.popen', 'tempfile.mktemp',
    'ssl._create_unverified_context',
}  # fmt: skip
# Arguments that must not be given, or only so.
ONLY = {
    'trust_remote_code': (False,),
    'allow_pickle': (False,),
    'shell': (False,),
    'verify': (True,),
    'weights_only': (True,),
    'use_safetensors': (True,),
}


def name_of(node: ast.expr) -> str:
    """Return what is called, as `torch.load`."""
    if isinstance(node, ast.Attribute):
        return f'{name_of(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else ''


def _is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def offences(source: str) -> Iterator[str]:
    """Name everything in a source text that must not be there."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        given = {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN:
            yield f'line {node.lineno}: {name}'
        if name in ('torch.load', 'torch.hub.load') and 'weights_only' not in given:
            yield f'line {node.lineno}: {name} without weights_only=True'
        for word, allowed in ONLY.items():
            value = given.get(word)
            if word == 'use_safetensors' and _is_true(given.get('weights_only')):
                # Pickles are read as data only.
                continue
            if value is not None and not (
                isinstance(value, ast.Constant) and value.value in allowed
            ):
                yield f'line {node.lineno}: {word} is {ast.unparse(value)}'
        # Only what comes as keywords can be read here.
        makes_model = name.endswith('.from_pretrained') and 'models' in name.lower()
        if makes_model and 'use_safetensors' not in given:
            yield f'line {node.lineno}: {name} without use_safetensors=True'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_becomes_code(path):
    assert list(offences(path.read_text())) == []


@pytest.mark.parametrize(
    'source',
    [
        'eval(answer)',
        'import pickle; pickle.loads(data)',
        'torch.load(path)',
        'torch.load(path, weights_only=False)',
        'torch.load(path, weights_only=flag)',
        'AutoModel.from_pretrained(name, trust_remote_code=True)',
        '_models.from_pretrained(name)',
        '_models.from_pretrained(name, use_safetensors=False)',
        '_models.from_pretrained(name, use_safetensors=False, weights_only=False)',
        'yaml.load(text)',
        'subprocess.run(command, shell=True)',
        'openai.AsyncOpenAI(verify=False)',
        'np.load(path, allow_pickle=True)',
    ],
)
def test_what_would_let_data_become_code_is_seen(source):
    assert list(offences(source))


@pytest.mark.parametrize(
    'source',
    [
        'model.eval()',
        're.compile(pattern)',
        'torch.load(path, map_location="cpu", weights_only=True)',
        'yaml.safe_load(text)',
        '_processors.from_pretrained(folder)',
    ],
)
def test_what_is_harmless_is_left_alone(source):
    assert not list(offences(source))
