"""What ``--multirun`` runs with: the sweeper and the Ray launcher, registered with Hydra."""

from hydra.core.plugins import Plugins

_ALLOWED = ("hydra_plugins.", "hydra._internal.core_plugins.", f"{__name__}.")


def register_plugins() -> None:
    """Registers both with Hydra, which itself takes plugins of a top-level package ``hydra_plugins`` alone."""
    from llm_cls.multirun.ray_launcher import RayLauncher
    from llm_cls.multirun.sweeper import GridSweeper

    Plugins.is_in_toplevel_plugins_module = staticmethod(lambda name: name.startswith(_ALLOWED))  # type: ignore[assignment]
    for plugin in (GridSweeper, RayLauncher):
        Plugins.instance().register(plugin)
