"""The Qwen3.5 families at test size: three Gated DeltaNet layers, then one with attention."""

from __future__ import annotations

import transformers

from tests.families.qwen import QwenFamily

# As the official one: no system message of its own, turns are trimmed, and the answer begins after an empty thought.
TEMPLATE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}<|im_start|>{{ message.role }}
{% set content = render(message.content) | trim -%}{{ content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is true -%}
{{ '<think>\\n' }}{%- else -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}
{%- endif -%}"""


class Qwen35(QwenFamily):
    name = "qwen3_5"
    model_class = "Qwen3_5ForConditionalGeneration"
    config_class = "Qwen3_5Config"
    chat_template = TEMPLATE
    token_side = 32

    def config(self, tokenizer, hidden, layers, tower):
        vision = self.vision_settings(hidden, tower) | {
            "depth": tower[1],
            "patch_size": 16,
            "num_position_embeddings": 64,
        }
        head = hidden // 4
        turning = head // 4  # pairs: half of a head's dimensions turn
        rope = {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [turning - 2 * (turning // 4), turning // 4, turning // 4],
            "mrope_interleaved": True,
        }
        text = self.text_settings(tokenizer, hidden, layers) | {
            "head_dim": head,
            "rope_parameters": rope,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 8,
        }
        config = getattr(transformers, self.config_class)
        return config(text_config=text | self.more_text(hidden), vision_config=vision, **self.special_ids(tokenizer))

    def more_text(self, hidden):
        return {}


class Qwen35Moe(Qwen35):
    name = "qwen3_5_moe"
    model_class = "Qwen3_5MoeForConditionalGeneration"
    config_class = "Qwen3_5MoeConfig"

    def more_text(self, hidden):
        return {
            "num_experts": 4,  # few, as rounding may choose another expert where there are many alike
            "num_experts_per_tok": 2,
            "moe_intermediate_size": hidden,
            "shared_expert_intermediate_size": hidden,
        }


FAMILIES = [Qwen35(), Qwen35Moe()]
