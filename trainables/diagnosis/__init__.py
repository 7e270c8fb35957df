"""Why a run went wrong, by replay: snapshots -> replay -> probes -> verdict -> remedy."""
