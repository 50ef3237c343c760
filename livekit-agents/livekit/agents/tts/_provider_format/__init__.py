"""Expressive speech: one markup for language models, lowered to what each provider understands.

A language model writes `<expr type="T" label="L"/>` with T one of `expression`, `break`, `sound`,
`prosody`, `spell` (the last two may wrap words: `<expr type="prosody" label="whisper">…</expr>`).
Providers are named by dialect keys; see `DIALECTS`. An unknown key, such as "", has no markup.
"""

from ._convert import convert_markup, normalize_markup
from ._dialects import (
    DIALECTS,
    Dialect,
    max_input_len,
    sentence_tokenizer,
    supported_nonverbals,
)
from ._prompts import llm_instructions, steering_instructions
from ._strip import (
    TranscriptMarkupStripper,
    drop_bracket_cues,
    expression_attribute,
    split_all_markup,
    split_expr_markup,
    strip_all_markup,
    strip_expr_markup,
)

__all__ = [
    "DIALECTS",
    "Dialect",
    "TranscriptMarkupStripper",
    "convert_markup",
    "drop_bracket_cues",
    "expression_attribute",
    "llm_instructions",
    "max_input_len",
    "normalize_markup",
    "sentence_tokenizer",
    "split_all_markup",
    "split_expr_markup",
    "steering_instructions",
    "strip_all_markup",
    "strip_expr_markup",
    "supported_nonverbals",
]
