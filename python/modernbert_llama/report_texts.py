"""A small retrieval set, for who has none of their own: questions, and documents of which some answer each."""

from __future__ import annotations

import itertools
from typing import Final

__all__ = ["builtin_texts"]

# a question each way of asking, then what documents are made of
_TOPICS: Final = (
    (
        "Why is the water of the river cold in spring?",
        "melting snow and floods in the valley",
        "The river rises in the mountains, where the snow lies until May.",
        "When the snow melts, cold water fills the river and floods the lower fields.",
        "Farmers in the valley move their cattle to higher ground before the water comes.",
        "In late summer the river is so low that one can walk across it.",
    ),
    (
        "How long does sourdough bread have to rest?",
        "baking bread with a starter",
        "A sourdough starter is flour and water in which wild yeast has grown.",
        "The dough rests for twelve hours at room temperature before it is shaped.",
        "A hot stone in the oven gives the loaf a thick crust.",
        "Rye flour makes a darker and heavier bread than wheat.",
    ),
    (
        "What does an index do for a database query?",
        "slow SQL queries and b-trees",
        "Without an index the database reads every row of the table.",
        "A b-tree keeps the keys in order, so that a range of them is found in a few steps.",
        "Each index makes inserting a row a little slower.",
        "The query planner compares the costs of a scan and of a lookup.",
    ),
    (
        "When may a tenant leave before the lease ends?",
        "ending a rental contract early",
        "The lease runs for two years and cannot be ended by the landlord before.",
        "A tenant may leave with three months' notice if the employer moves the job elsewhere.",
        "The deposit is paid back within thirty days, less the cost of repairs.",
        "Subletting needs the written consent of the owner.",
    ),
    (
        "Which vaccine do travellers to the tropics need?",
        "yellow fever and malaria prevention",
        "Yellow fever is spread by mosquitoes that bite during the day.",
        "One injection protects against yellow fever for life.",
        "Against malaria there are tablets, taken before, during and after the journey.",
        "Long sleeves and a net over the bed keep most mosquitoes away.",
    ),
    (
        "How do bees find their way back to the hive?",
        "navigation of honey bees",
        "Honey bees steer by the position of the sun, even behind thin clouds.",
        "A dance inside the hive tells the others direction and distance of the flowers.",
        "Landmarks such as trees guide a bee over the last metres.",
        "A beekeeper moves hives at night, when all bees are inside.",
    ),
    (
        "What causes a memory leak in a C program?",
        "malloc without free",
        "Memory that is allocated and never freed is lost until the process ends.",
        "A sanitizer reports the line that allocated what was not released.",
        "Reading past the end of an array is undefined behaviour.",
        "An arena frees all of its objects at once, so that none can be forgotten.",
    ),
    (
        "Who painted the ceiling of the chapel?",
        "frescoes of the Renaissance",
        "A fresco is painted on wet plaster, a few square metres a day.",
        "The painter lay on a scaffold under the ceiling of the chapel for four years.",
        "Soot from candles had darkened the colours before they were cleaned.",
        "Pigments ground from stone were dearer than gold.",
    ),
    (
        "How is the interest on a mortgage calculated?",
        "home loans and monthly payments",
        "Interest is charged on what is still owed, each month anew.",
        "With a fixed rate the monthly payment stays the same for ten years.",
        "In the first years most of the payment is interest.",
        "Paying back early may cost a fee.",
    ),
    (
        "Why do the leaves turn red in autumn?",
        "chlorophyll and colours of trees",
        "In autumn trees break down the green chlorophyll and keep what it is made of.",
        "Yellow pigments were in the leaf all along, hidden by the green.",
        "Red ones are made in autumn, on sunny days after cold nights.",
        "A layer of cork closes the stem before the leaf falls.",
    ),
    (
        "What should a cyclist check before a long ride?",
        "bicycle maintenance",
        "Brake pads thinner than a millimetre must be replaced.",
        "A dry chain wears the sprockets; a drop of oil on each link is enough.",
        "Tyres lose pressure by themselves and are pumped up every two weeks.",
        "A spare tube and a pump fit under the saddle.",
    ),
    (
        "How does a transformer model read a sentence?",
        "attention in language models",
        "The sentence is cut into tokens, and each becomes a vector.",
        "Attention lets each token gather from all others what it needs.",
        "Positions are told apart by rotating queries and keys.",
        "The vectors of all tokens are averaged to one for the sentence.",
    ),
    (
        "When did the railway reach the coast?",
        "history of the western line",
        "The railway reached the coast in 1869, after six years of building.",
        "Tunnels through the granite were driven by hand, half a metre a day.",
        "Before, the journey by coach had taken three weeks.",
        "Fresh fish was sold in the capital on the day after the catch.",
    ),
    (
        "Can a telescope see the rings of Saturn?",
        "amateur astronomy",
        "A telescope of six centimetres shows the rings of Saturn.",
        "The four large moons of Jupiter can be seen with field glasses.",
        "City lights hide all but the brightest galaxies.",
        "Warm air rising from roofs makes the picture tremble.",
    ),
    (
        "How much sleep does a child of six need?",
        "bedtime and school",
        "Children of six sleep ten to eleven hours.",
        "A fixed hour for going to bed helps more than any story.",
        "Screens in the evening delay sleep by half an hour.",
        "Tired pupils remember less of what they heard in the morning.",
    ),
    (
        "What keeps concrete from cracking?",
        "curing of cement and reinforcement",
        "Concrete shrinks while it hardens, and cracks where it is held.",
        "Steel bars take the tension that concrete cannot bear.",
        "Kept wet for a week, it becomes harder and tighter.",
        "Joints every five metres decide where a crack may run.",
    ),
)


def builtin_texts() -> tuple[list[str], list[str]]:
    """Queries and documents: 32 and 160, in English, of 5 to 40 words."""
    queries = [query for topic in _TOPICS for query in topic[:2]]
    documents = [" ".join(facts) for topic in _TOPICS for n in (1, 2) for facts in itertools.combinations(topic[2:], n)]
    return queries, documents
