#!/usr/bin/env bash
# transformers 5.23.0: a Sam3VideoModel that was built from a configuration (trained from zero, or given
# weights by load_state_dict) is saved with its tracker's tensors under "tracker_model.tracker_model.";
# the published layout, and one that came from from_pretrained, has the prefix once. Sam3VideoModel reads
# the doubled names back; Sam3TrackerModel, which takes boxes and points, finds none of them and starts
# its prompt encoder and mask decoder from random weights, with a report in the log and no error.
# Seen: every name of the tracker is doubled in the file, Sam3VideoModel misses none, Sam3TrackerModel 147.
# Matters to: whoever converts or trains a SAM 3 and segments with the saved copy.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.23.0 torch==2.15.0 torchvision==0.29.2
HF_HUB_OFFLINE=1 HF_HOME="$folder" "$folder/venv/bin/python" - "$folder/saved" <<'PYTHON'
import sys

from safetensors import safe_open
from transformers import logging, Sam3TrackerModel, Sam3VideoConfig, Sam3VideoModel

logging.set_verbosity_error()
logging.disable_progress_bar()
small = {'hidden_size': 32, 'num_attention_heads': 2, 'intermediate_size': 64}
vision = {
    'model_type': 'sam3_vision_model',
    'backbone_config': {
        **small,
        'model_type': 'sam3_vit_model',
        'num_hidden_layers': 1,
        'image_size': 112,
        'window_size': 4,
        'global_attn_indexes': [0],
        'pretrain_image_size': 56,
    },
    'fpn_hidden_size': 32,
    'backbone_feature_sizes': [[32, 32], [16, 16], [8, 8]],
}
detector = {
    'model_type': 'sam3',
    'vision_config': vision,
    'text_config': {**small, 'model_type': 'clip_text_model', 'num_hidden_layers': 1},
    'geometry_encoder_config': {**small, 'num_layers': 1},
    'detr_encoder_config': {**small, 'num_layers': 1},
    'detr_decoder_config': {**small, 'num_layers': 1},
    'mask_decoder_config': {'hidden_size': 32, 'num_attention_heads': 2},
}
tracker = {
    'model_type': 'sam3_tracker_video',
    'image_size': 112,
    'vision_config': vision,
    'prompt_encoder_config': {'hidden_size': 32},
    'mask_decoder_config': {
        'hidden_size': 32,
        'num_attention_heads': 2,
        'mlp_dim': 64,
        'iou_head_hidden_dim': 32,
    },
    'memory_attention_hidden_size': 32,
    'memory_encoder_hidden_size': 32,
    'memory_encoder_output_channels': 16,
    'mask_downsampler_embed_dim': 32,
    'memory_fuser_embed_dim': 32,
}
folder = sys.argv[1]
Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker)).save_pretrained(folder)
with safe_open(f'{folder}/model.safetensors', 'pt') as file:
    names = [name for name in file.keys() if name.startswith('tracker_model.')]
doubled = [name for name in names if name.startswith('tracker_model.tracker_model.')]
_, video = Sam3VideoModel.from_pretrained(folder, output_loading_info=True)
_, prompts = Sam3TrackerModel.from_pretrained(folder, output_loading_info=True)
missing = len(prompts['missing_keys'])
print(f'{len(doubled)} of {len(names)} names doubled; missing: {len(video["missing_keys"])} in')
print(f'Sam3VideoModel, {missing} in Sam3TrackerModel')
assert names and doubled == names
assert not video['missing_keys'] and missing > 100
PYTHON
echo 'as seen'
