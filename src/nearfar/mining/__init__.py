"""Hard negatives: searched for, judged by one rule, chosen, cached, and said where they came from."""

from nearfar.mining.mine import Mined, mine
from nearfar.mining.rule import NegativeRule, choose
from nearfar.mining.sources import parse_sources
from nearfar.mining.summary import Summary
from nearfar.mining.teacher import CrossEncoder

__all__ = ["CrossEncoder", "Mined", "NegativeRule", "Summary", "choose", "mine", "parse_sources"]
