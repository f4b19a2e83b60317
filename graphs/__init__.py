"""The subgraphs of one training block: forward-backward, reduce-average and broadcast."""
