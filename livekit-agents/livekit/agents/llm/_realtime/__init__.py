"""Engines of realtime models that several plugins share."""
