"""Chat templates by name, for models whose prompt is not what their folder's template writes; names are SGLang's."""

from __future__ import annotations

from pathlib import Path

from embedway.errors import InvalidSetting


def _chatml(after_visual: str, end: str) -> str:
    """Qwen-VL's prompt: a system message, the user's parts, and an answer that is about to begin."""
    return (
        "{%- macro text_of(content) -%}"
        "{%- if content is string -%}{{ content }}{%- else -%}"
        "{%- for part in content -%}"
        "{%- if part.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>" + after_visual + "' }}"
        "{%- elif part.type == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>" + after_visual + "' }}"
        "{%- else -%}{{ part.text }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
        "{%- if messages[0].role != 'system' -%}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
        "{%- endif -%}"
        "{%- for message in messages -%}"
        "{{ '<|im_start|>' + message.role + '\\n' + text_of(message.content) + '<|im_end|>\\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n" + end + "' }}{%- endif -%}"
    )


TEMPLATES = {
    "gme-qwen2-vl": _chatml(after_visual="", end="<|endoftext|>"),
    "qwen2-vl": _chatml(after_visual="\\n", end=""),
}


def find_template(name_or_file: str) -> str:
    """The Jinja source of a known name or of a file. Raises InvalidSetting."""
    if name_or_file in TEMPLATES:
        return TEMPLATES[name_or_file]
    try:
        return Path(name_or_file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        problem = f"{name_or_file!r} is not {', '.join(TEMPLATES)}, and as a file it cannot be read ({reason})"
        raise InvalidSetting(setting="--chat-template", problem=problem) from error
