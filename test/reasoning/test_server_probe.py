"""The probe reaches a server on the ways that a query takes, and says why it cannot."""

import shutil
import ssl
import subprocess

import pytest
from scripted_server import free_port, MODEL, running, WELL

from segzero_ros.reasoning.openai_reasoner import OpenAIReasoner
from segzero_ros.reasoning.server_probe import ServerProbe

PROXIES = ('http_proxy', 'https_proxy', 'all_proxy', 'no_proxy')


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with running() as made:
        yield made


def unreachable_reason(url, **options):
    with ServerProbe(url, **options) as probe:
        return probe.unreachable_reason()


def test_a_server_that_answers_is_there_and_sees_no_key(server, monkeypatch):
    monkeypatch.setenv('OPENAI_API_KEY', 'sk-very-secret')
    with ServerProbe(server.url.replace('http://', 'http://me:pass@')) as probe:
        assert probe.unreachable_reason() == '' == probe.unreachable_reason()
    assert [path for path, _, _ in server.seen] == ['/v1/models'] * 2
    assert {headers['Authorization'] for _, headers, _ in server.seen} == {'Bearer none'}


@pytest.mark.parametrize('status', [200, 401, 404, 429, 500])
def test_a_server_that_answers_anything_is_there(server, status):
    server.listing = lambda request: request.reply(status, b'<html>', 'text/html')
    assert unreachable_reason(server.url) == ''


@pytest.mark.parametrize('status', [502, 503, 504])
def test_a_proxy_without_a_server_behind_it_is_none(server, status):
    server.listing = lambda request: request.reply(status, b'', 'text/html')
    said = unreachable_reason(server.url)
    assert f'No server answers at {server.url} (status {status})' in said
    assert 'docs/serving.md' in said


def test_a_list_of_any_length_is_not_read(server):
    def for_ever(request):
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b'x' * 65536)

    server.listing = for_ever
    assert unreachable_reason(server.url) == ''


def test_nobody_there_and_a_silent_one_are_named_without_the_password(server):
    port = free_port()
    said = unreachable_reason(f'http://me:pass@127.0.0.1:{port}/v1')
    assert f'No server answers at http://127.0.0.1:{port}/v1' in said and 'pass' not in said
    server.listing = lambda request: request.hung_up()
    assert 'No server answers' in unreachable_reason(server.url, timeout=0.2)


def test_a_server_that_comes_back_is_found_again():
    port = free_port()
    with ServerProbe(f'http://127.0.0.1:{port}/v1') as probe:
        for _ in range(2):
            with running(port):
                assert probe.unreachable_reason() == ''
            assert 'No server answers' in probe.unreachable_reason()


def test_a_server_that_only_a_proxy_reaches_is_there_for_probe_and_query(server, monkeypatch):
    # The scripted server plays the proxy: it is asked for an address that nobody can resolve.
    monkeypatch.setenv('ALL_PROXY', server.url.removesuffix('/v1'))
    server.answer = lambda request: request.stream(WELL)
    url = 'http://robots-server.invalid:8000/v1'
    reasoner = OpenAIReasoner(url, MODEL)
    reasoner.close()
    assert unreachable_reason(url) == ''
    assert {path for path, _, _ in server.seen} == {f'{url}/models'}


@pytest.mark.skipif(not shutil.which('openssl'), reason='needs openssl to make a certificate')
@pytest.mark.parametrize('way', ['SSL_CERT_FILE', 'SSL_CERT_DIR'])
def test_probe_and_query_trust_the_same_certificates(server, tmp_path, monkeypatch, way):
    trusted = tmp_path / 'trusted'
    trusted.mkdir()
    certificate, key = trusted / 'certificate.pem', tmp_path / 'key.pem'
    command = ['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2']
    command += ['-keyout', str(key), '-out', str(certificate), '-subj', '/CN=localhost']
    command += ['-addext', 'subjectAltName=DNS:localhost']
    subprocess.run(command, check=True, capture_output=True)
    subprocess.run(['openssl', 'rehash', str(trusted)], check=True, capture_output=True)
    encrypted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encrypted.load_cert_chain(certificate, key)
    server.socket = encrypted.wrap_socket(server.socket, server_side=True)
    url = f'https://localhost:{server.server_port}/v1'
    for name in ('SSL_CERT_FILE', 'SSL_CERT_DIR'):
        monkeypatch.delenv(name, raising=False)
    assert 'CERTIFICATE_VERIFY_FAILED' in unreachable_reason(url)
    monkeypatch.setenv(way, str(certificate if way == 'SSL_CERT_FILE' else trusted))
    OpenAIReasoner(url, MODEL).close()
    assert unreachable_reason(url) == ''
