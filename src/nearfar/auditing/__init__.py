"""The data half of diagnosis: what is wrong with training pairs, how much of it, and what to type."""

from nearfar.auditing.checks import CHECKS, Audit, audit, audit_material, material_of
from nearfar.auditing.material import Material
from nearfar.auditing.reading import read_leniently

__all__ = ["CHECKS", "Audit", "Material", "audit", "audit_material", "material_of", "read_leniently"]
