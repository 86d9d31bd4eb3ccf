"""
PLUGINS: where twisted.plugin looks for ours and for those of other distributions.

Other packages add modules here without an `__init__.py` of their own: `mailstack/plugins/anything.py`.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
