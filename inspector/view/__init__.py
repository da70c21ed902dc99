"""How results are shown: figures, the layer map, and the page that holds them."""
