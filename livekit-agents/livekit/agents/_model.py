"""What every kind of model has in common: who it is, in logs, events and metrics."""

from __future__ import annotations

__all__ = ["MeteredModel", "NamedModel"]


class NamedModel:
    """Names a model. A plugin overrides `model` and `provider`."""

    _label: str
    """Set by the kind's own `__init__`."""

    @property
    def label(self) -> str:
        """Module and class, for logs and events."""
        return self._label

    @property
    def model(self) -> str:
        """Name of the model, "unknown" unless the plugin tells."""
        return "unknown"

    @property
    def provider(self) -> str:
        """Who runs the model, "unknown" unless the plugin tells."""
        return "unknown"


class MeteredModel(NamedModel):
    """A named model whose metrics carry its names as a dict."""

    @property
    def metrics_metadata(self) -> dict[str, str]:
        """`model_name` and `model_provider`, as they appear in metrics."""
        return {"model_name": self.model, "model_provider": self.provider}
