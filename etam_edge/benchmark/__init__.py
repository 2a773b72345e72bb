"""How fast a bundle is on this machine: whole frames, stages, memory, and two bundles interleaved."""
