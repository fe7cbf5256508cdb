"""Decontamination: is a text, or code in it, a problem of an evaluation set?

contamination = Contamination(DecontaminationSettings())   # HumanEval
if hit := contamination.check(text):
    print(f"{hit.set} {hit.item}, by {hit.how} ({hit.score})")
"""

from factory.decontamination.check import Contamination, DecontaminationSettings, Hit
from factory.decontamination.sets import EvaluationSet, Item, read_items

__all__ = ["Contamination", "DecontaminationSettings", "EvaluationSet", "Hit", "Item", "read_items"]
