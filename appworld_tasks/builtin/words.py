"""Plain word lists from which titles, labels, artists and products are made."""

ADJECTIVES = """
amber ancient arctic autumn azure bold brave breezy bright brisk bronze calm candid cedar chilly clever cloudy cobalt
copper coral cosmic cozy crimson crystal curious daring dawn deep distant dusty early eager easy electric elegant ember
fading fancy fern floral foggy fresh frosty gentle gilded glad glassy golden grand hazel hidden hollow honest humble icy
indigo ivory jade jolly keen lemon light lilac little lively lonely lucid lunar magic maple marble mellow merry mild
mint misty modern mossy neon nimble noble olive opal orange pale paper pastel patient pearl plain plum polar polite
proud quick quiet rapid rare red restless rosy royal ruby rustic sable saffron salty sandy scarlet secret serene shady
shiny silent silver simple sleepy smooth snowy soft solar spicy starry steady still stormy sunny sweet swift tall tame
teal tender timber tiny topaz tranquil true velvet vivid wandering warm wild windy wise woven yellow young zesty
""".split()  # noqa: SIM905 (a paragraph of words reads better than a list of strings)

NOUNS = """
acorn airport almond anchor apple apron arrow atlas attic aurora badge bakery balcony balloon bamboo banana banjo barrel
basil basket beacon bench berry bicycle blanket blossom bonfire bottle boulder bracelet branch bread breeze brick bridge
broom bucket butter button cabin cactus camera candle canoe canvas canyon carpet carrot castle celery cello cherry
chimney cinema citrus clarinet clover coast cobweb coconut coffee comet compass cookie corner cottage cotton cradle
crayon creek cricket crown cupboard curtain cushion daisy desert diamond dolphin donkey doorway dragon drawer dream drum
eagle easel echo engine falcon feather fence ferry festival fiddle field flame flower flute forest fossil fountain fox
garage garden garlic gazebo ginger glacier glove grape guitar hammer hammock harbor harvest hazelnut hedge helmet heron
hill honey horizon hornet igloo island ivy jacket jaguar jasmine jigsaw journal jungle kayak kettle kitchen kitten
ladder lagoon lamp lantern laptop laundry lavender leaf lemon library lighthouse lily lobster locket lumber machine
magnet mango mantle maple marble market meadow melon meteor mirror mitten monkey mountain muffin museum mushroom
nectar needle nest nutmeg oasis ocean onion orchard orchid otter oven oyster paddle palace panda papaya parade parrot
pasture peach peanut pebble pencil penguin pepper piano picnic pigeon pillow pine pirate planet plaza pocket pony poppy
postcard potato prairie puddle pumpkin puzzle quarry quilt rabbit radio radish rainbow raven ribbon river robin rocket
rooster saddle sailor salad sandal satchel saucer scarf school scooter seashell shadow shovel signal skate slipper
snail sofa spark sparrow spinach spiral spoon squirrel stable statue stream summer sunset swan table teapot temple
thimble thunder ticket tiger toaster tomato torch tower tractor trail treasure trumpet tulip tunnel turtle umbrella
unicorn valley vase village vinegar violin volcano waffle wagon walnut walrus waterfall whale wheel whistle willow
window winter wizard wool workshop yogurt zebra zipper
""".split()  # noqa: SIM905 (a paragraph of words reads better than a list of strings)
