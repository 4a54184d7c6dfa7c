"""Funnelcast's batch pipeline: ingest, audit, point-in-time features, training and nightly scores."""
