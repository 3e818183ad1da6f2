"""Make golden rankings and their values by other implementations: python make.py > rankings.json

TREC measures by ir_measures (pip install ir_measures), the average precision of ILIAS by scikit-learn, those of
revisited Oxford and Paris and of Google Landmarks v2 by loops that follow the published descriptions. Nothing of
imgrank is used.
"""

import json
import random

import ir_measures
from ir_measures import AP, RR, P, Qrel, R, ScoredDoc, nDCG
from sklearn.metrics import average_precision_score


def revisited(ranks: list[int], positives: int) -> float:
    """Area under lines between precisions; ranks of positives from 0, junk taken out."""
    total = 0.0
    for found, rank in enumerate(ranks):
        before = 1.0 if rank == 0 else found / rank
        total += (before + (found + 1) / (rank + 1)) / 2 / positives
    return total


def revisited_precision(ranks: list[int], k: int) -> float:
    if not ranks:
        return 0.0
    depth = min(max(ranks) + 1, k)
    return sum(rank < depth for rank in ranks) / depth


def landmarks(right: list[bool], positives: int, k: int) -> float:
    total, found = 0.0, 0
    for rank, one in enumerate(right[:k], 1):
        if one:
            found += 1
            total += found / rank
    return total / min(positives, k)


def ilias(right: list[bool], scores: list[float], positives: int, k: int) -> float:
    right, scores = right[:k], scores[:k]
    if not any(right):
        return 0.0
    return float(average_precision_score(right, scores)) * sum(right) / min(k, positives)


def main() -> None:
    rng = random.Random(20261126)
    cases = []
    for number in range(40):
        size = rng.choice([1, 3, 12, 60, 250])
        photos = [f"p{place}" for place in range(size)]
        grades = {}
        for place in range(rng.choice([1, 2, 8, 30, 120])):
            name = rng.choice(photos) if rng.random() < 0.7 else f"unfound{place}"
            grades[name] = rng.choice([1, 1, 1, 2, 3])
        for name in rng.sample(photos, min(size, rng.choice([0, 0, 5]))):
            if name not in grades or len(grades) > 1:
                grades[name] = rng.choice([0, -1])
        if not any(grade > 0 for grade in grades.values()):
            grades["unfound"] = 1
        # Different scores, but for every third case; float32, as records hold them.
        scores = sorted(
            (rng.randrange(1, 8) / 8 if number % 3 == 2 else 1 - place / 512 for place in range(size)), reverse=True
        )
        kept = [(name, score) for name, score in zip(photos, scores, strict=True) if grades.get(name, 0) >= 0]
        right = [grades.get(name, 0) > 0 for name, _ in kept]
        positives = sum(grade > 0 for grade in grades.values())
        ranks = [rank for rank, one in enumerate(right) if one]
        values = {
            "revisited-AP": revisited(ranks, positives),
            "revisited-P@1": revisited_precision(ranks, 1),
            "revisited-P@10": revisited_precision(ranks, 10),
            "AP@100": landmarks(right, positives, 100),
            "AP@5": landmarks(right, positives, 5),
            "ILIAS-AP@1000": ilias(right, [score for _, score in kept], positives, 1000),
            "ILIAS-AP@20": ilias(right, [score for _, score in kept], positives, 20),
        }
        # ir_measures sorts by score: ranks make the order the one that is meant.
        run = [ScoredDoc("q", name, float(len(kept) - place)) for place, (name, _) in enumerate(kept)]
        qrels = [Qrel("q", name, grade) for name, grade in grades.items() if grade >= 0]
        asked = {
            "AP": AP,
            "RR": RR,
            "P@1": P @ 1,
            "P@10": P @ 10,
            "R@5": R @ 5,
            "R@100": R @ 100,
            "nDCG": nDCG,
            "nDCG@10": nDCG @ 10,
        }
        if kept:
            found = ir_measures.calc_aggregate(list(asked.values()), qrels, run)
            values |= {name: float(found[one]) for name, one in asked.items()}
        cases.append({"photos": photos, "scores": scores, "grades": grades, "values": values})
    print(json.dumps(cases, separators=(",", ":")))


main()
