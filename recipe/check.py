"""Render the recipe for conda-forge: it must be valid, and say what it is to say.

``python -m pip install py-rattler-build && python recipe/check.py``
"""

from pathlib import Path

from rattler_build import Stage0Recipe


def main() -> None:
    recipe = Stage0Recipe.from_file(Path(__file__).with_name("recipe.yaml"))
    for variant in recipe.render():
        package = variant.recipe.package
        print(f"{package.name} {package.version} renders")


if __name__ == "__main__":
    main()
