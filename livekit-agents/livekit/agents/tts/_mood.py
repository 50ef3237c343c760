"""One word for a feeling that was described freely, for clients that show a face."""

from __future__ import annotations

import re

# In order of priority: the first one wins a tie. Keywords match at the start of a word.
_KEYWORDS: dict[str, tuple[str, ...]] = {
    "angry": ("angr", "anger", "furi", "irritat", "annoy", "frustrat", "outrag", "mad", "stern"),
    "sad": (
        "sad",
        "unhapp",
        "sorrow",
        "griev",
        "grief",
        "melanchol",
        "mourn",
        "disappoint",
        "tearful",
        "heartbroken",
        "downcast",
        "regret",
    ),
    "anxious": (
        "anxi",
        "nerv",
        "worr",
        "afraid",
        "fear",
        "scared",
        "uneas",
        "tense",
        "panic",
        "hesita",
    ),
    "surprised": ("surpris", "astonish", "amaz", "shock", "stunn", "startl", "disbelie"),
    "playful": ("playful", "teas", "mischiev", "jok", "sly", "cheeky", "witty", "sarcas", "flirt"),
    "empathetic": (
        "empath",
        "sympath",
        "compassion",
        "caring",
        "concern",
        "understanding",
        "apolog",
        "comfort",
        "support",
        "gentle",
        "tender",
    ),
    "excited": ("excit", "thrill", "enthus", "energetic", "ecsta", "eager", "triumph", "pumped"),
    "curious": ("curio", "intrigu", "interest", "wonder", "inquisit", "puzzl", "thoughtful"),
    "hopeful": ("hope", "optimis", "encourag", "reassur", "confident", "inspir"),
    "happy": ("happ", "joy", "cheer", "glad", "delight", "pleas", "warm", "friendly", "smil"),
    "calm": ("calm", "sooth", "relax", "seren", "peace", "neutral", "steady", "composed", "soft"),
}
_PATTERNS = {
    mood: re.compile(rf"\b(?:{'|'.join(words)})", re.IGNORECASE)
    for mood, words in _KEYWORDS.items()
}


def match_mood(label: str, *, fallback: str = "calm") -> str:
    """The mood whose keywords occur most often in a description such as "warm, a bit amused".

    Args:
        label: The description.
        fallback: Returned when nothing matches.
    """
    counts = {mood: len(pattern.findall(label)) for mood, pattern in _PATTERNS.items()}
    best = max(counts, key=lambda mood: counts[mood])
    return best if counts[best] else fallback
