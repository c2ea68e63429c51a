"""Which latents stand for which taxa: latents against the nodes of a tree of image labels, and the order of a heat map of both"""
