"""A federation over Flower (flower.ai): its SuperLink and SuperNodes carry what `federating` asks.
Nothing else of Edgewise imports `flwr`."""
