"""How good answers are: exact match and F1 as SQuAD 1.1 defines them (Rajpurkar et al. 2016, its
evaluation script), and BLEU by sacrebleu."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import sacrebleu

from edgewise.schemes import get_scheme
from edgewise.specs import ModelSpec

ORIGINAL_BITS = 32  # DILEMMA's baseline


def normalized(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(reply: str, answers: Sequence[str]) -> bool:
    """Whether an answer equals one of the right ones."""
    return any(normalized(reply) == normalized(answer) for answer in answers)


def f1(reply: str, answers: Sequence[str]) -> float:
    """Words shared with the right answer that shares most: harmonic mean of precision and
    recall."""
    return max(_f1(normalized(reply).split(), normalized(answer).split()) for answer in answers)


def _f1(words: Sequence[str], right: Sequence[str]) -> float:
    shared = sum((Counter(words) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def bleu(replies: Sequence[str], answers: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU in [0, 1] against all right answers of each question."""
    most = max(map(len, answers))
    # A question with fewer answers repeats its first: that changes no count that BLEU takes.
    references = [[row[i] if i < len(row) else row[0] for row in answers] for i in range(most)]
    return float(sacrebleu.corpus_bleu(replies, references).score) / 100


def quantization_ratio(spec: ModelSpec, schemes: Sequence[str]) -> float:
    """Bits that the codes of all matrices take, as a share of 32 per weight (DILEMMA's ratio,
    section 2.2 of the notes): scales not counted."""
    weights = [sum(r * c for r, c in layer.matrices) for layer in spec.layers]
    bits = [get_scheme(name).weight_bits for name in schemes]
    kept = sum(w * b for w, b in zip(weights, bits, strict=True))
    return kept / (ORIGINAL_BITS * sum(weights))
