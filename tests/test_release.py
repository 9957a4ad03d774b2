"""What a release says about itself is said alike in all of its files."""

import json
import re
from pathlib import Path

import skmfr

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_version_is_the_same_in_all_files():
    version = re.escape(skmfr.__version__)
    assert re.search(f"^version: {version}$", text("CITATION.cff"), re.M)
    assert re.search(f'^  version: "{version}"$', text("recipe/recipe.yaml"), re.M)
    newest = re.search(r"^## \[(.*?)\]", text("CHANGELOG.md"), re.M)
    assert newest[1] == skmfr.__version__


def test_conda_recipe_needs_what_the_package_needs():
    (listed,) = re.findall(
        r"^dependencies = \[$(.*?)^\]$", text("pyproject.toml"), re.M | re.S
    )
    needed = dict(re.findall(r'^ *"([\w-]+)(>=[\d.]+)', listed, re.M))
    # conda-forge's name of PyTorch.
    needed["pytorch"] = needed.pop("torch")
    run = text("recipe/recipe.yaml").partition("  run:\n")[2].partition("\n\n")[0]
    in_recipe = dict(re.findall(r"- ([\w-]+) (>=[\d.]+)$", run, re.M))
    assert in_recipe == needed


def test_zenodo_has_the_title_and_licence_of_the_citation():
    zenodo = json.loads(text(".zenodo.json"))
    assert f'title: "{zenodo["title"]}"' in text("CITATION.cff")
    assert f"license: {zenodo['license']}" in text("CITATION.cff")
