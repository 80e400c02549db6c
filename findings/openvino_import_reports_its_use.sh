#!/usr/bin/env bash
# openvino 2026.4.1: `import openvino` by itself starts its telemetry, without asking: it makes an
# identifier of the user in ~/intel and hands an event to a thread that posts it over the network.
# Only `opt_in_out --opt_out`, run before by the same user, prevents it; without the package
# openvino_telemetry, which is a dependency, the import does without.
# Matters to: robots that must not contact anybody, and read-only or shared home folders.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.1 openvino-telemetry==2025.2.0
mkdir "$folder/home"
cat > "$folder/look.py" <<'PYTHON'
import openvino_telemetry.main as telemetry

events = []
# Nothing leaves this machine: what would be posted is only counted.
telemetry.TelemetrySender.send = lambda self, backend, message: events.append(message)
import openvino

print(f'openvino {openvino.__version__}: {len(events)} events of a mere import')
assert events, 'the import reports nothing any more'
PYTHON
env -u CI HOME="$folder/home" "$folder/venv/bin/python" "$folder/look.py"
test -s "$folder/home/intel/openvino_ga_cid" || { echo 'no identifier is made any more'; exit 1; }
echo "made: $(cd "$folder/home" && find . -type f | tr '\n' ' ')"
