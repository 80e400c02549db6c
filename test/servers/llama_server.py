"""llama.cpp's own server out of the wheel xllamacpp, with the arguments of llama-server.

For processors that the prebuilt program was not compiled for. Runs in that wheel's environment.
"""

import argparse
import signal
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument('-m', required=True)
    for name in ('--mmproj', '--alias', '--device'):
        parser.add_argument(name, default='')
    parser.add_argument('--host', default='127.0.0.1')
    # As llama-server: four slots that share one context, unless told otherwise.
    for name, default in (('--port', 8080), ('-np', 4), ('-c', 0), ('-ngl', -1)):
        parser.add_argument(name, type=int, default=default)
    for name in ('--image-min-tokens', '--image-max-tokens'):
        parser.add_argument(name, type=int, default=-1)
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.m
    params.mmproj.path = given.mmproj
    params.model_alias = {given.alias} if given.alias else set()
    params.hostnames = [given.host]
    params.port = given.port
    params.n_parallel = given.np
    params.n_ctx = given.c
    params.kv_unified = given.np > 1
    params.n_gpu_layers = 0
    params.image_min_tokens = given.image_min_tokens
    params.image_max_tokens = given.image_max_tokens
    params.use_jinja = True
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = xllamacpp.Server(params)
    ended.wait()
    del server


main()
