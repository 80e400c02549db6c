"""The reasoning model for a fleet, on Ray Serve: `serve run reasoner_app:app` (docs/serving.md).

SEGZERO_MODEL is the model's name on the hub or a folder that every machine sees; SEGZERO_REPLICAS
the most copies of it, each on a GPU of its own; SEGZERO_DEVICE is `cpu` where a test has no GPU.
"""

import os

from ray.serve.llm import build_openai_app, LLMConfig

MODEL = os.environ.get('SEGZERO_MODEL', 'Ricky06662/VisionReasoner-7B')
REPLICAS = int(os.environ.get('SEGZERO_REPLICAS', '8'))
DEVICE = os.environ.get('SEGZERO_DEVICE', 'gpu')

config = LLMConfig(
    # The first is the name that robots ask for.
    model_loading_config={'model_id': MODEL, 'model_source': MODEL},
    deployment_config={
        'autoscaling_config': {
            'min_replicas': 1,
            'max_replicas': REPLICAS,
            # Queries at once per replica; without it Ray never adds one.
            'target_ongoing_requests': 8,
        }
    },
    accelerator_config={'kind': DEVICE},
    engine_kwargs={
        'max_model_len': 4096,
        'limit_mm_per_prompt': {'image': 1, 'video': 0},
        'tensor_parallel_size': 1,
    },
)
app = build_openai_app({'llm_configs': [config]})
