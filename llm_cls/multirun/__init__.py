"""What llm_cls adds to Hydra: the sweeper and the Ray launcher of ``--multirun``, and a callback."""

from hydra.core.plugins import Plugins

_ALLOWED = ("hydra_plugins.", "hydra._internal.core_plugins.", f"{__name__}.")


def register_plugins() -> None:
    """Registers both with Hydra, which by default accepts only plugins of a top-level package ``hydra_plugins``."""
    from llm_cls.multirun.ray_launcher import RayLauncher
    from llm_cls.multirun.sweeper import GridSweeper

    Plugins.is_in_toplevel_plugins_module = staticmethod(lambda name: name.startswith(_ALLOWED))  # type: ignore[assignment]
    for plugin in (GridSweeper, RayLauncher):
        Plugins.instance().register(plugin)
