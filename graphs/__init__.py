"""The subgraphs of training: the block, with its broadcast and forward-backward; reduce-average; ring-allreduce."""
