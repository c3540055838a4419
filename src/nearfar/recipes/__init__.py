"""Recipes: published ways to train, as stages over your own pairs. `RECIPES` has them by name, `run_recipe` runs one."""

from nearfar.recipes.bge import BGE
from nearfar.recipes.e5 import E5
from nearfar.recipes.gpl import GPL
from nearfar.recipes.gte import GTE
from nearfar.recipes.image_text import ALIGN, CLIP, LIT, SIGLIP
from nearfar.recipes.recipe import Bench, Material, Number, Recipe, Stage
from nearfar.recipes.run import RecipeResult, run_recipe
from nearfar.recipes.sbert import SBERT
from nearfar.recipes.simclr import SIMCLR
from nearfar.recipes.simcse import SIMCSE
from nearfar.recipes.static import STATIC

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (SBERT, SIMCSE, E5, BGE, GTE, STATIC, GPL, SIMCLR, CLIP, SIGLIP, ALIGN, LIT)
}

__all__ = ["RECIPES", "Bench", "Material", "Number", "Recipe", "RecipeResult", "Stage", "run_recipe"]
