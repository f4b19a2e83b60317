"""The subgraphs of one training block: broadcast, forward-backward, local steps, reduce-average, ring-allreduce."""
