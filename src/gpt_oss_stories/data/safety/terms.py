# ruff: noqa: E501  a pattern is one line
"""What the safety filter looks for: plain tables of patterns (see `patterns` for how they are written).

`CLASSES` names groups of words. `HARMLESS` lists phrases whose words then count for nothing ("kill two birds", "root
beer"). `TERMS` gives, for each category and severity, what to look for. Add a sample to
`tests/fixtures/safety_samples.jsonl` with every change, for what it should find and for what it must leave alone.

The words are as coarse as what they are to find. Slurs are kept as hashes only, in `SLURS` and `SLURS_IN_CONTEXT`:
in the patterns they appear as the words `%slur` and `%maybe-slur`. `%name` is a capitalised word inside of a sentence
that is in no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .patterns import forms
from .policy import MENTIONED, ROUGH, SEVERE, UNSUITABLE, Category

_CLASS_WORDS: Mapping[str, str] = {
    # people
    "poss": "my|your|his|her|its|our|their|the|a|an|one's|somebody's|someone's|another|each",
    "pronoun": "him|her|me|you|us|them|everybody|everyone|somebody|someone|anybody|anyone",
    "child": (
        "child/n|kid/n|boy/n|girl/n|baby/n|toddler/n|infant/n|son/n|daughter/n|orphan/n|pupil/n|schoolboy/n|"
        "schoolgirl/n|teenager/n|teen/n|grandson/n|granddaughter/n|stepdaughter/n|stepson/n|lad/n"
    ),
    "kin": (
        "father/n|mother/n|mom/n|mum/n|dad/n|daddy|mommy|mummy|papa|mama|parent/n|brother/n|sister/n|wife/n|husband/n|"
        "uncle/n|aunt/n|grandpa/n|grandma/n|grandfather/n|grandmother/n|cousin/n|nephew/n|niece/n|family"
    ),
    "carer": (
        "father/n|mother/n|mom/n|mum/n|dad/n|daddy|mommy|papa|mama|parent/n|stepmother/n|stepfather/n|stepmom|stepdad|"
        "uncle/n|aunt/n|grandpa/n|grandma/n|grandfather/n|grandmother/n|teacher/n|nurse/n|nanny/n|schoolmaster/n|"
        "priest/n|coach/n|neighbor/n|neighbour/n|man|woman|husband/n|master/n|mistress/n"
    ),
    "grown": (
        "man|men|woman|women|people|person/n|human/n|guard/n|soldier/n|sailor/n|prisoner/n|farmer/n|shepherd/n|"
        "merchant/n|stranger/n|policeman|policemen|officer/n|cop/n|driver/n|teacher/n|neighbor/n|neighbour/n|lady|"
        "ladies|gentleman|gentlemen|maid/n|servant/n|cook/n|miller/n|tailor/n|baker/n|villager/n|crowd|traveller/n|"
        "traveler/n|hunter/n|huntsman|prince/n|princess/n|king/n|queen/n|knight/n|monk/n|priest/n|passenger/n|"
        "customer/n|worker/n|slave/n|peasant/n|lover/n|bride/n|doctor/n|student/n|friend/n|enemy|enemies|waitress/n|"
        "victim/n|citizen/n|youth/n|folk|crew|emperor|bridegroom"
    ),
    "human": "@child|@kin|@grown",
    "person": "@human|@pronoun|%name",
    "self": "himself|herself|myself|yourself|themselves|ourselves|itself|yourselves",
    "foe": (
        "wolf/n|giant/n|giantess|dragon/n|witch/n|ogre/n|ogress|troll/n|monster/n|beast/n|serpent/n|snake/n|sorcerer/n|"
        "wizard/n|goblin/n|demon/n|devil/n|lion/n|bear/n|tiger/n|leopard/n|hyena/n|jackal/n|crocodile/n|fox|foxes|"
        "shark/n|spider/n|rat/n|bull/n|boar/n|kraken|hydra|vulture/n|hawk/n|fly|flies|seal/n|whale/n|ox|oxen|pig/n|sheep|goat/n|buffalo|elephant/n|antelope/n|deer|stag/n|fish"
    ),
    "pet": (
        "dog/n|cat/n|kitten/n|puppy/n|hamster/n|rabbit/n|bunny|bunnies|pony|ponies|donkey/n|horse/n|frog/n|bird/n|"
        "lamb/n|mouse|mice|monkey/n|goat/n|butterfly|butterflies"
    ),
    # bodies
    "body": (
        "head/n|neck/n|throat/n|chest/n|belly|bellies|stomach/n|arm/n|leg/n|hand/n|finger/n|eye/n|face/n|skull/n|rib/n|"
        "heart/n|back/n|tongue/n|ear/n|nose/n|foot/n|limb/n|toe/n|thumb/n|hair|wrist/n|guts|bowels|brain/n|liver|"
        "flesh|skin|jaw|breast/n|spine|bone/n|shoulder/n|side"
    ),
    "limb": "head/n|arm/n|leg/n|hand/n|finger/n|foot/n|toe/n|tongue/n|ear/n|nose/n|limb/n|thumb/n|breast/n|heart/n",
    "vital": "chest/n|belly|stomach/n|neck/n|throat/n|heart|face|eye/n|skull|head|gut/n|back",
    # harm
    "gun": "gun/n|pistol/n|rifle/n|revolver/n|shotgun/n|handgun/n|musket/n",
    "blade": (
        "knife/n|dagger/n|sword/n|axe/n|ax|machete/n|razor/n|hatchet/n|cleaver/n|blade/n|spear/n|scissors|sabre/n|"
        "pitchfork/n|chainsaw/n"
    ),
    "weapon": "@gun|@blade|hammer/n|club/n|bomb/n|grenade/n|crowbar|whip/n",
    "cut": "cut/v|chop/v|hack/v|slice/v|saw/v|lop/v|bite/v|tear/v|rip/v|hew/v|hewed|strike/v|smite|smote|cuts|sliced",
    "flow": "pour/v|spurt/v|spray/v|gush/v|squirt/v|splatter/v|stream/v|flow/v|spill/v|ooze/v|run/v|spatter/v|drip/v",
    "thrash": "beat/v|whips|whipped|whipping|thrash/v|flog/v|lashed|caned|belted",
    "beat": "@thrash|spank/v|kick/v|punch/v|slap/v|hit/v|strike/v|smack/v",
    "hard": "hard|until|bled|bruise/n|blood|belt|chain/n|stick|whip|fist/n|broom|again|unconscious|screamed|brutally",
    "tool": (
        "belt/n|stick/n|cane/n|broom/n|whip/n|strap/n|paddle/n|ladle/n|hanger/n|cord/n|ruler/n|chain/n|slipper/n|fist/n|poker|branch|rope|pan|bottle/n|brick/n|pipe|hammer|board|bat"
    ),
    "harm": (
        "stab/v|slash/v|slit/v|ram/v|pierce/v|smash/v|crush/v|hack/v|carve/v|gouge/v|rip/v|tear/v|skin/v|scald/v|whipped|flog/v|strangle/v|choke/v|batter/v|maim/v|butcher/v|maul/v|mangle/v|bludgeon/v|trample/v|stone/v|spear/v|bayonet/v|break/v|snap/v|chop/v|cut/v|slice/v"
    ),
    "online": ("online|internet|website|chat|app"),
    "spirits": (
        "vodka|whisky|whiskey|tequila|brandy|gin|rum|bourbon|schnapps|booze|liquor|alcohol|moonshine|absinthe|beers"
    ),
    "nation": (
        "chinese|japanese|indian|polish|turkish|irish|mexican|african|pakistani|syrian|arab|jewish|muslim|black|asian|romanian|russian|foreign|gypsy"
    ),
    # what makes light of a danger
    "glory": (
        "fun|funny|cool|great|awesome|pretty|laugh/v|giggle/v|yummy|delicious|tasty|lovely|wonderful|best|happy|strong|"
        "easy|amazing|hilarious|enjoy/v|party|proud|exciting|dance/v|cheer/v|yay|grown-up|flying|hurray|super|try"
    ),
    "warning": (
        "danger|dangerous|bad|careful|safe|unsafe|never|mustn't|shouldn't|hurt|sick|sorry|wrong|doctor|hospital|stop|"
        "stopped|don't|ambulance|warned|warn|scared|angry|cough|coughed|coughing|firemen|firefighter/n"
    ),
    # drink and drugs
    "liquor": (
        "vodka|whisky|whiskey|tequila|brandy|gin|rum|bourbon|schnapps|beer/n|booze|liquor|champagne|alcohol|moonshine"
    ),
    "drug": (
        "cocaine|heroin|meth|methamphetamine|marijuana|cannabis|lsd|fentanyl|opium|hashish|amphetamine/n|ketamine"
    ),
    "cigarette": "cigarette/n|cigar/n|cig/n|vape/n",
    # hate
    "people": (
        "jew/n|jewish|muslim/n|christian/n|hindu/n|arab/n|african/n|asian/n|mexican/n|immigrant/n|foreigner/n|refugee/n|"
        "gays|lesbian/n|homosexual/n|blacks|negro|negroes|gypsies"
    ),
    "mean": (
        "dirty|filthy|stupid|disgusting|inferior|subhuman|lazy|thieves|criminals|vermin|rats|dumb|"
        "scum|parasites|worthless|savages|unclean|lousy|stinking"
    ),
    "insult": (
        "dirty|filthy|stupid|ugly|damn|damned|disgusting|you|lousy|stinking|fucking|bloody|worthless|dumb|lazy|cowardly|"
        "goddamn|rotten"
    ),
    # the undead
    "undead": "zombie/n|vampire/n|ghoul/n|demon/n|werewolf|werewolves|corpse/n|monster/n|creature/n|clown/n|doll/n|ghost/n",
    "pretend": (
        "pretend|pretended|pretending|pretends|toy|toys|puppet|puppets|costume|dreamed|dreamt|dream|plastic|foam|"
        "make-believe|cardboard|puppet's|snowman|gingerbread|movie|statue|paper"
    ),
}


def _resolved(words: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The classes as sets; a class may name those that stand before it."""
    classes: dict[str, frozenset[str]] = {}
    for name, written in words.items():
        classes[name] = forms(written, classes)
    return classes


CLASSES = _resolved(_CLASS_WORDS)


def _words(table: str) -> list[str]:
    """The words of a table."""
    return table.split()


def _lines(table: str) -> Iterator[str]:
    """The patterns of a table: its lines but for blank ones and those that begin with #."""
    return (line for line in table.splitlines() if line.strip() and not line.startswith("#"))


NEGATIONS = frozenset(
    _words(
        """
    accidentally no not never nobody none without nor neither didn't don't doesn't won't wouldn't can't cannot
    couldn't shouldn't mustn't wasn't weren't isn't aren't hasn't haven't hadn't ain't hardly instead
        """
    )
)
CLAUSE_WORDS = frozenset(["and", "but", "until", "then", "who", "because", "so", "when", "while", "or", "if"])
"""A negation before one of these, or before a comma, says nothing about what follows."""

_HARMLESS = """
kill/v @self laughing
kill/v @self with laughter
nurse|doctor|dentist|vet ..8 needle in|into
# live, hang
want to live in|with|near|close|there|at|on|alone|like|under|by|among|here|together|forever|for|inside|outside|somewhere
hang/v @self up|upside|over|out|by|from|on ?the ?its ?his ?her
# kill, die, dead, murder
kill/v two ..1 birds
kill/v ?some|the|?of time|boredom|hunger
kill/v ..1 fleas|germs|weeds|bacteria|lice|mosquitoes|appetite|mood
killer whale/n
foot|feet|back|shoes|head|lunch|smell|legs|boots|heat|suspense ..1 was|were|is|are killing
curiosity killed the cat
kill/v ..2 with kindness
killed her|him|me ..1 so
killjoy
dying to|for
battery|batteries|engine|phone|fire|wind|storm|light|sound|sounds|noise|flame/n|music|car|laughter|motor ..2 die/v
die/v down|away|out
dead tired|quiet|simple|serious|sure|end|heat|calm|center|centre|easy|right|weight|slow|still|leaf|leaves|wood|branch|branches|grass|tree|trees|battery|flower|flowers
dead as a doornail
scare/v|bore/v|tickle/v|frightened|worried|tired ..2 to death
over my dead body
matter of life and death
traffic|work|heat was|is murder
get|got away with murder
bite the dust
kick/v the bucket
# shoot, gun, arrows, bombs
shoot/v ..3 look|glance|smile|grin|glare|photo/n|picture/n|film|movie|video|goal|goals|hoop/n|basket/n|marble/n|basketball|question/n
shoot/v up|out|across|past|into|through|off|down|over|ahead|along|forward|toward|towards|upward
photographer ..3 shoot/v
water|toy|squirt|glue|nail|cap|pop|bubble|nerf|spray|staple|play|cork|wooden|paint|radar|heat|plastic|foam|popcorn|candy|potato|laser gun/n|pistol/n|rifle/n
big|top|great gun/n
jump/v the gun
shooting star/n
bath|photo|seed|cherry|stink|dive|water|cannonball|glitter|belly bomb/n
spray|bottle|hose|fountain|cannon|sprinkler|whale|geyser ..1 shoot/v
chemist|pharmacist|pharmacy|apothecary ..5 drugs
wind|cold|frost|air|rain ..6 stab/v
sword swallower|fish|dance|fight
# cut, hit, beat, bite, punch, kick, stab
cut/v @self ?off a|an|some|the|one ?big|?little slice|piece|branch|stick|reed|switch|bit|hole|loose|free|down|chunk
cut/v @self free|loose|off
hit|hits|hitting|kick/v|throw/v|strike/v|punch/v|slap/v|beat/v ?a|?an|?the|?his|?her|?their ?red|?big|?little|?soccer ball|balls|drum|drums|football|baseball|puck|target|bullseye|road|sack|brakes|nail|nails|jackpot|ground|note|button|pinata|piñata|gong|bag|dough|eggs|egg|cream|butter|rug|rugs|carpet|time|retreat|wings|path|bat
hit|hits by|with ..1 idea|thought
hit it off
big|huge|great hit
beat/v ..2 at|in ..4 game|race|chess|checkers|cards|tag|match|contest|record|hide|running
heart/n ..1 beat/v
beat/v the odds|record|drums|heat|rug
team|lions ..2 beat/v
slap/v|pat/v|smack/v|clap/v|hit ..2 on ..1 back|knee|shoulder|bottom|leg|thigh
slap/v ?his|?her|?their|?my knee/n|thigh/n|five|hands|palm|forehead|water|lips
smack/v ..1 lips
wind|cold|frost|air|rain|sun|hunger|pain|guilt|thorn|thorns|brambles ..2 stab/v|bit|bite|whip/v|lash/v|beat/v|slap/v|cut
rain|waves|hail|wind|sun beat/v|lash/v|whip/v
whipped cream
whip/v ?up|?the cream|cake|eggs|storm|batter|soup|meal|out|around
laugh/v @poss head/n off
bite/v|chop/v|cut/v|pull/v|break/v|took the head/n|legs|arms|arm|leg off ..2 gingerbread|carrot/n|doll|cookie|flower/n|fish|snowman|chocolate|radish|turnip|broccoli|lettuce|celery|nail|match|corn|puppet
break/v a leg
punch/v a|two|three hole/n
fruit|the punch bowl|tasted|was
pull/v @poss leg
nose|noses ..1 bled|bleed|bleeds|bleeding
jump/v out of ..1 skin
crack/v ..2 up
bite/v @poss lip|lips|nails|tongue
pillow|snowball|food|water|tickle|mud|thumb fight/v
# blood
blood orange/n|hound/n|sausage|brothers|relative/n|related|moon|pressure|sugar|red|test
smell the blood of an
royal|noble|cold|warm|blue|young|hot|bad blood
flesh and blood
smother/v|drown/v ..2 with|in ..1 kisses|love|hugs|tears|blankets
intercourse with ..1 spirit|spirits|world|people|neighbours|neighbors|men|him|them|her|strangers
cut throat/n
blood ran|run|froze cold
blood ..2 froze|freeze|cold|veins|boil|boiled|boiling
drop/n of blood
# drink, drugs, smoke
root|ginger|butter|birch beer/n
rum|brandy|beer|wine|champagne|gin scented|cake|cakes|raisin|gums|glass|snap|barrel/n|batter|sauce|vinegar|bottle/n
ginger ale
drug store/n|drugstore/n
have|has|had|having|i've|he'd|she'd|they'd|they've|you've|we've ..2 drunk up|the|a|an|all|some|his|her|it|its|their|from|of|off|my|enough|water|tea|milk|every|half|deep|as|our|to|nothing|this|that|dry|out|much
drunk with|on joy|happiness|sleep|love|sunshine|nectar
have|has|had|having|i've|he'd|she'd|they'd|they've|you've|we've eaten and drunk
have|has|had ..1 drunk
smoke|smoking hot|signal/n|alarm|detector/n|ring/n|screen|chimney/n|wood|fire|mountain|stove|fish|ham
chimney/n|fire|engine|volcano|oven|stove|train|house|ruins|mountain/n|pot|wood ..2 smoke/v
stoned fruit|path|cherries
high on life|sugar
get|got high grade|grades|marks|score|scores|up|in|above|enough
# sex and bodies
of ..1 her|his|my|your|their|our|that sex
male|female|fair|fairer|gentle|gentler|opposite|weaker|other|either|both|own|same sex|sexes
sex of ..2 chick/n|kitten/n|puppy|puppies|baby|babies|child
naked branch|branches|tree|trees|eye|sword|rock|rocks|truth|mole|hill|hills|feet
tree|trees|branches ..2 naked
naked in ..1 bath|tub|river
horny hand/n|skin|hide|beak|claw/n|hoof|hoofs|hooves|plates|scale/n|frog|toad/n|shell|feet|fingers|palm/n|tail
grope/v ..1 about|around|for|along|through|toward|towards|her|his|their|blindly|in|down|up
chicken|turkey|duck|robin|robin's|hen|bird|bird's|roast|goose ..1 breast/n
erection of
virgin forest|soil|snow|olive|wool|mary
rape seed|field/n|oil
bra strap|size
# hell, devil, damn, bitch, bastard, ass, dick, cock, tit, slurs with another sense
bitch ..8 puppy|puppies|pup|pups|litter|whelps
puppy|puppies|pup|pups|litter|hound|hounds|kennel|shepherd ..8 bitch
hell hath
heaven|heavens and|or|nor hell
uncle|mr|old|captain|sir|cousin dick
dick and|whittington|turpin|van|tracy
tit for tat
blue|great|coal|willow|marsh|long-tailed|tufted|tom|the|a tit/n
tit/n and|or ..1 wren|finch|robin|sparrow
%maybe-slur of ..1 wood|sticks|twigs|brush|brushwood|straw|thorns|heather|firewood|light|sky|sunlight
wood|sticks|fire|burn|load|carry|gather|bundle|carried|gathered ..4 %maybe-slur
retard/v ?the|?his|?her|?its growth|progress|march|journey|flight
cut/v ..3 cake|bread|paper|grass|hair
# dangers
jump/v off|from ..2 roof ..3 snow|leaves|hay|pile
do not|don't|never play ..1 with matches|match|fire|knife|knives|gun|guns|medicine|pills
# skeletons and costumes
dressed|dress as|like|up ..3 vampire/n|zombie/n|ghost/n|skeleton/n|monster/n|demon/n|devil/n|witch
vampire|zombie|ghost|monster|demon|devil costume/n|mask/n|bat/n|teeth|movie|truck/n
cannibal ants
swastika ..4 temple|india|hindu|buddha
"""
HARMLESS: tuple[str, ...] = tuple(_lines(_HARMLESS))
"""Phrases whose words are left alone."""

_TERMS: Mapping[Category, Mapping[int, str]] = {
    Category.SEXUAL: {
        MENTIONED: """
naked
bra/n
lingerie
undress/v
panties
thong/n
nude
underwear
""",
        ROUGH: """
cleavage|corset|lingerie|panties|nude|nudity
naked body|bodies|man
lust|lustful|lusted
seduce/v|seductive|seductively
virginity
nipple/n
made|making|makes love
bosom ..2 heaving|naked|bare
undress/v for|him|her|me
affair with ..3 wife|husband|man|woman
fondle/v ..2 breast/n|body|woman|thigh/n
""",
        UNSUITABLE: """
make/v passionate|wild|sweet love
take/v ..3 to ..1 bed ..6 maid|woman|girl|wife|lover|naked
lift/v|pull/v ..1 @poss shirt|dress|skirt|blouse ..8 boobs|breasts|underwear|naked|men
unhook/v|unlace/v|unbutton/v|unzip/v ..2 corset|bra|bodice|blouse
face|lips|hand/n in|into|between @poss ?bare breasts|cleavage
skinny dipping|dip|dipped
kiss/v ..8 naked
naked|nude ladies|lady|women|woman|girlfriend|models|pictures|bodies|couple
making|makes love
topless
tongue|tongues in|into|down ..1 mouth|throat|ear
kiss/v ..4 thigh/n|breast/n|belly|nipples
lover/n ..6 bed|naked|bedroom|undress/v
mistress ..8 hotel|love|bed
hotel ..6 mistress|prostitute|lover
couple ..3 naked
pole|exotic dancer/n
undress/v each other
pant/v|moan/v|groan/v|sigh/v with|in ..1 desire|pleasure|passion|lust
dirty|adult|naughty|x-rated movie/n|film/n|magazine/n|pictures|videos
touch/v|pleasure/v|rub/v|stroke/v himself|herself ..2 under|while|between|alone|bed|until
touch/v himself|herself
hand/n|fingers|tongue|mouth ..2 between|up|inside|down ..1 thighs|legs|pants|trousers|skirt
@poss inner|bare|naked thigh/n
private|privates parts|part
show/v|expose/v|flash/v ..2 privates|genitals|himself ..2 to
genitals|genital|crotch|groin
slept|sleep|sleeps|sleeping with ..2 boss|wife|husband|secretary|women|men|woman|neighbor|neighbour|prostitutes
grab/v|squeeze/v|pinch/v|slap/v|stare/v|pat/v ..3 butt|breasts|bum|bosom|ass
got|get|made her pregnant
naked ..4 together|beside|against|on top
lay|lie|lying naked ..6 him|her|lover|together
threesome|kinky|fetish|bondage|escort service
rip/v|tear/v|pull/v|tug/v ..3 blouse|bra|panties|shirt|dress off|open ..6 kiss/v|breast/n|bed
unbutton/v|unzip/v ..2 blouse|pants|trousers|fly|dress ..6 kiss/v|bed|hand|desire
kiss/v ..6 undress/v|unbuttoned
passionate|passionately ..6 bed|body|bodies|naked|clothes
one-night|night stand
sexy
tits|titties|boobs|boobies
naked|bare|nude breast/n
kiss/v|caress/v|squeeze/v|fondle/v|grab/v ..3 breast/n|thigh/n|nipples
nude|naked|sexy photo/n|picture/n|video/n|selfie/n|women|woman|girls
moan/v ..2 pleasure
in bed with ..1 another|woman|man|lover
in bed ..8 naked
naked ..6 bed
made|make love ..3 until|night|bed|sofa|couch|again|morning
sleep|slept|sleeping with ..2 prostitute|whore|mistress
tear/v|rip/v off ..3 clothes ..6 love|bed|kiss/v|naked
undress/v for him|her|me
mistress ..3 bed
hump/v ..1 @person
striptease|stripper/n
molest/v ..2 @child|woman|women
had|have|having intercourse
strip|lap club|clubs|dance|dances
aroused ..3 touch|body|kiss|desire
""",
        SEVERE: """
porno/n|porn|xxx
sex
sexual|sexually
porn|porno|pornography|pornographic|hentai
orgasm/n|orgy|orgies|erotic|erotica
masturbate/v|masturbation
penis|penises|vagina/n|clitoris|testicles|blowjob/n|handjob/n|dildo/n|semen|ejaculate/v
erection/n
condom/n|viagra
horny
rape/v|rapist/n
molester/n|pedophile/n|paedophile/n|incest
grope/v
brothel/n|whore/n|whorehouse|slut/n|slutty|prostitute/n|prostitution|hooker/n|pimp/n
sexual intercourse
moan/v ..4 intercourse
take|took|taking|remove/v|unhook/v|pull/v ..1 off ..1 bra|panties|thong
unhook/v|removed|remove ..1 bra|panties
hand ..1 up|under ..1 skirt|blouse
""",
    },
    Category.SELF_HARM: {
        MENTIONED: """
cut/v @self
""",
        ROUGH: """
want/v|wish/v|long/v|decide/v|hope/v|beg/v ..1 to die
wish/v ..2 @person|i|she|he were|was dead
throw/v|cast|fling/v|flung @self ..2 river|sea|well|lake|water
cut/v @self ..4 arm/n|wrist/n|leg/n
""",
        UNSUITABLE: """
not|didn't|don't|no want to be alive
cut/v|slashed|hurt|burned @poss ?own arms|wrists|legs|skin|thighs ..6 knife|razor|blade|sad|hurt|pain
knife|razor|blade|glass ..2 cut/v @poss ?own arms|wrists|legs|skin|thighs
stop/v|stopped eating|food ..8 fat|ugly|thin|bones|thinner
jump/v|leap/v ..4 tower|bridge|cliff|roof|window|building ..3 and die|dead|died|end
box|bottle|handful|packet of ..1 sleeping pills
sleeping pills ..6 die|all|whole|swallow/v
make/v @self sick|vomit|throw ..6 thin|fat|eat
not|don't|didn't deserve to live|exist
step/v|jump/v|throw/v|walk/v ..2 in front of ..2 train
drink/v|swallow/v|take/v ..1 poison ..8 life|sad|himself|herself|die|lonely|sorrow|grief
tie/v|make/v ..2 noose ..8 goodbye|sad|himself|herself|bye|neck|beam|tree
scratch/v|cut/v|burn/v|bite/v ..1 @poss ?own arms|arm|legs|leg|skin|thighs|wrists ..6 until|bled|bleed|because|hated|blood|pain|sad
pain will|would ..2 be over ..6 jump|die|pills|blade
jump/v ..6 pain ..3 over
life was|is|had|not ..2 worth living
not worth living
life ..4 too ..1 sad|hard|painful|unbearable ..4 anymore|die|poison|rope
nobody|no ..1 would|will ..1 care|notice|mourn|cry if ..2 i|she|he ..1 died|die|dead|gone
hate/v ..1 myself
better ..2 without me
want/v|wish/v to be dead
nothing|no ..1 reason|nothing ..1 to live for
no reason|point to|in live|living|life
not want to wake up ..2 ever|again|anymore
never|not wake up again ..6 pills|sad|wanted|hoped
tired of living
hate/v being alive
hurt/v|burn/v @self ..1 with ..2 razor|knife|blade|glass|lighter|cigarette
overdose
jump/v|leap/v ..2 bridge|roof|tower|cliff|balcony ..8 die|end|dead|forever|life
head in ..2 oven
put|puts an end to ..2 life|suffering|misery|pain
walk/v|went|wade/v into ..2 sea|lake|river|water ..6 die|end|drown|never ..1 come|return|back
die|dead|dying ..4 easier|better than|living
wish/v ..2 he|she|i|they had never been born
kill/v @self
stab/v|drown/v|shoot/v|hang/v|poison/v|strangle/v @self
no|not ..3 live any|anymore|longer
not|don't|didn't want to live|exist
want/v|wish/v to die ..6 jump/v|tower|bridge|lake|rope|tonight|drown|alone|sad|drowned|myself
jump/v|leap|leapt|leaped|climb/v ..10 wish/v|want/v to die|disappear
nobody|no|one would miss ..2 if
better|best off|if ..2 dead
if i were|was dead
throw/v|fling/v|flung @self ..2 train|cliff|bridge|tower|car|rails|window
goodbye|farewell note
swallow/v ..2 all|whole|bottle|handful ..3 pills|tablets
hate/v ..1 body|myself|herself|himself
starve/v @self
""",
        SEVERE: """
@blade|glass ..3 to|across|against|on|into @poss own wrist/n|throat|neck|arm/n|veins|heart|skin|leg/n
@poss own wrist/n|veins|throat|arms ..2 with ..2 @blade|glass
cut/v|slash/v|slit/v @poss wrist/n
bridge|tracks|roof|cliff|window to end it
end|ended|ending it all ..8 pills|bridge|rope|knife|tracks|anymore
hurt/v|cut/v @self ..2 with ..2 razor
suicide/n|suicidal
self-harm|selfharm|self-injury
self harm
kill/v|hang/v|shoot/v yourself|myself
kill/v|hang/v @self ..4 because|bridge|garage|beam|tower|rope|stable
hang/v @self
cut|cuts|cutting|slit|slits|slash/v ..1 @poss ?own wrist/n|vein/n
cut/v @self on purpose
cut/v|hurt/v|burn/v|scratch/v @self ..4 purpose|deliberately|pain|numb|better|punish
cut/v @self every|each night|day
end|ends|ended|ending @poss ?own life
take|took|taken|taking @poss own life
shoot/v @self ..2 head|heart|mouth
rope|noose ..3 around|round ..2 own neck
starve/v @self ..8 body|fat|thin|disappear|ugly
wish/v|want/v to die ..6 drown|kill|hang|jump
""",
    },
    Category.HATE: {
        MENTIONED: """
savage/n
heathen/n
""",
        ROUGH: """
negro|negroes
swastika/n
hate/v ..2 @people
retard/n
""",
        UNSUITABLE: """
not|don't|didn't want ..2 @people
@people ..6 get rid of|out
rid of ..1 them|@people ..2 all|jews|foreigners|immigrants
all @people are
you are|you're black|brown|jewish|foreign|asian|chinese ..4 cannot|can't|never|not
because you|she|he|they are|were|is|was black|brown|jewish|muslim|foreign|gay|disabled
wheelchair|disabled|blind|deaf|autistic|crippled ..6 freak/n|useless|disgusting|monster|home|burden
freak/n ..4 should|belong|home|die|away
@people ..8 threw ..1 stones|rocks
stones|rocks ..2 at ..2 @people
like a|some ?little %maybe-slur
dark|black|brown skin ..8 cannot|can't|never|not
hated|hates|hate ..2 because|for ..4 skin|religion|black|color|colour
@nation people|boy|girl|man|woman|kids|children|men|women|family ..8 liars|thieves|dirty|stupid|lazy|criminals|never|dogs|rats|evil|cheat|steal
@people steal/v|lie/v|cheat/v|stink/v|rob/v|smell/v
picking cotton
men|women|boys cannot|can't|shouldn't|mustn't marry|love|kiss
gay|lesbian|homosexual ..6 sick|sin|hell|wrong|disgusting|cure/v|unnatural|perverted
burn in hell
they|people are all liars|thieves|criminals|dirty|rapists|terrorists
white|black|asian people|kids|race ..3 better|smarter|superior|worse
like a|some|little %maybe-slur
those|these|their people ..8 @mean|animals
people from ..5 are|were ..2 @mean|animals
let|want|allow|like|need ..1 brown|black|jewish|muslim|asian|gay|foreign ..1 kids|people|children|men|families|boys|girls
disabled|crippled|handicapped|retarded|autistic ..1 children|people|kids|men|women|boy|girl are|is ..2 useless|worthless|stupid|burden|disgusting|ugly
@people ..2 poisoned|steal|stole|lie|cheat|stink|smell
burn|drive|kick|throw|keep|wipe ..1 @people ..2 out|houses|away|alive
sent|send|drive|drove|kick|throw ..1 them|@people ..2 back|away|out ..8 country|land|dirty|criminals|belong
whites|blacks|christians only
whites|blacks ..2 better|superior|inferior|worse|stupid|lazy
inferior|superior|pure|master race|races
skin ..2 dirty|ugly|disgusting
black|brown|dark skin is|was|are ..2 dirty|ugly|bad|evil
slanty eyes
women|girls ..2 belong in ..1 kitchen
women|girls ..2 should|must|can ..2 obey|serve|quiet|dumb
fat|ugly|crippled|poor people|kids|children|girls should ..2 die|allowed|born|hide
hate/v|kill/v ..2 @people
@mean @people
@people ..2 are|were ..3 @mean|welcome
no @people allowed|welcome
@people ..2 are|were not welcome|allowed|human
all @people are ..2 @mean
@people ..3 like|are rats|vermin|animals|dogs|pigs|cockroaches
gay|black|brown|white|dark|asian|jewish|disabled|trans people|children|men|women|folk|kids|skin ..6 @mean
gay|black|brown|jewish|disabled people|children|kids ..6 punished|allowed|inferior|welcome|should
go|went back to ..2 own country|jungle
go back to ..2 africa|mexico|china|country
girls|women|boys|men are ..2 stupid|inferior|nothing|dumb|weaker|worthless
white|aryan power|supremacy|supremacist/n
master race
wipe/v ..1 out ..3 @people
@people ..10 wiped|exterminated|exterminate
burn/v a|the cross
white hoods
swastika/n ..4 wall|flag|drew|arm|painted
draw|drew|paint/v ..2 swastika/n
@insult|the|a|such|that retard/n
skin ..4 dirty|inferior
""",
        SEVERE: """
%slur
@insult ..2 %maybe-slur
call/v ..2 a|an %maybe-slur
you ..1 %maybe-slur
no %maybe-slur allowed|here
heil hitler
gas|kill|burn|hang all|the @people
""",
    },
    Category.ABUSE: {
        MENTIONED: """
slap/v ..1 @person
spank/v
hit ..1 @child|@kin
slave/n
caned ..1 @person
""",
        ROUGH: """
bruises
hits|beats ..1 me|her|him|us
useless|worthless ..6 slap/v|hit|beat
stupid|useless|worthless ..3 brat
fists on ..3 @child|%name|me|her
@thrash ..2 @child|@pronoun|%name|@kin|servant|maid
@carer ..3 slap/v|spank/v|hit|strike/v|punch/v ..2 @child|%name|him|her|me
@carer ..4 @thrash ..2 @child|him|her|me|them|%name
beaten by ..2 @carer
whipped|whipping|thrash/v|flog/v|flogging
lock/v|shut ..4 cellar|basement|closet|attic
chain/v ..3 @child|her|him
starve/v @pronoun|@child
wish/v ..4 never been born
cruel|cruelly|mistreated|ill-treated ..2 stepmother|stepfather|beat
kick/v ..2 @pet
beat|beats|beating|whip/v ..2 @pet
""",
        UNSUITABLE: """
break/v|crushed|twisted mom|mother|wife|daughter|son|mommy|boy|girl|child arm|leg|nose|ribs|jaw|wrist|finger
tie/v|chain/v ..2 @child|%name|him|her|me ..3 to|in|on ..2 bed|chair|tree|post|radiator|bars ..10 eat|food|days|hit|beat|cried|night|hungry
not|nothing|no|any ..2 give ..3 eat|food|drink for ..2 days|weeks
pull/v|yank/v|grab/v|dragged ..2 hair ..6 head|wall|hit|slapped|kicked|floor
whip/v|hit|beat ..2 @child|him|her|me|us|%name ..3 with ..2 belt|cane|stick|whip|paddle
father|stepfather|mother|stepmother|dad|uncle|teacher|man ..2 hit|beat|kicked|punched|whipped|slapped|hurts|hits|beats ..1 him|her|me|@child|them|us|%name ..1 with|every|until|again|hard|so|because
came|come home drunk ..10 shouted|hit|beat|screamed|broke|threw|yelled
always|often|whenever|daily ..6 beat|beats|hit|hits|whipped|kicked|slapped ..1 @child|her|him|me|them|us|wife
beat|beats|hit|hits|whipped ..1 @child|her|him|me|them|us|wife ..3 always|often|whenever|daily|drunk
drank|drunk|drinking ..6 beat|hit|beats|hits|slapped ..1 @child|her|him|me|them|us|wife|mom|mother
touch/v|reach/v ..4 under|inside|down ..2 clothes|pants|shirt|skirt|pajamas|pyjamas|nightgown|underwear
nobody|one will|would ever believe you
nobody|one will|would believe you
pinch/v|slap/v|shake/v ..2 baby|toddler ..6 scream/v|cry/v
drown/v ..2 kitten/n|puppies|puppy|cat|dog|pup/n
sack ..4 kittens|puppies ..6 river|drown/v|pond
beat|hit|slapped|whipped|kicked ..3 slave/n|servant/n|apprentice|orphan/n
hid|hide|hiding ..10 father|stepfather|mother|dad|drunk ..4 beat|hit|beats
use/v ..3 fists|belt|whip|stick|cane on ..3 @child|%name|her|him|them|me|us
hold/v|put|push/v|dip/v|stick/v ..4 hand/n|arm/n|face|head|fingers in|into|under|on ..2 boiling|hot|scalding|burning|fire|stove
boiling|scalding water ..4 @child|him|her|hand/n|punish/v
@carer|he|she ..6 hit|hits|beat|beats|slap/v|strike/v|kick/v ..1 me|him|her|us|them ..3 harder|always|whenever
whipped|beaten|beat|kicked ..3 bloody
touch/v ..4 where ..3 shouldn't|not|never
slap/v|hit|punch/v|beat ..2 girlfriend|wife|mom|mother ..8 useless|stupid|face|again
hit|beat|beats|slap/v|smack/v|thrash/v|strike/v ..2 @child|%name|him|her|me|us|them|wife|servant|slave/n ..3 with ..2 @tool
throw/v|fling/v|push/v|shove/v ..2 @child|wife|her|me ..2 against|down|across ..2 wall|stairs|room
twist/v ..2 arm ..4 broke|cried|screamed|until
lock/v ..2 @child|%name|him|her|me|us|them ..4 shed|cellar|basement|closet|cupboard|dark|attic|cage ..6 food|night|cried|days|punish/v
food for ..1 days|weeks ..4 punish/v|punishment|bad
leave/v|left ..2 @pet|baby|child ..4 die|bleed|starve
strangle/v|choke/v|smother/v|drown/v ..2 baby|child|kitten/n|puppy|puppies|cat|dog
kick/v|hit|beat|stab/v|burn/v|cut/v ..2 @pet ..6 scream/v|cry/v|howl/v|laugh/v|bled|blood|dead|died|broke
stone/n|rock/n|bricks|firecracker/n ..3 at ..2 cat|dog|kitten|puppy|bird ..8 bled|dead|died|laugh/v|limp/v
@child ..6 bruises ..8 father|mother|stepfather|hit|beat|parents
afraid ..4 beat|hit ..2 again
@carer|he|she ..6 slap/v|spank/v|hit|hits|hitting|strike/v|punch/v|kick/v|@thrash ..2 @child|%name|him|her|me|them ..8 @hard
@thrash ..2 @child ..3 every|each|again|all
@carer ..4 @thrash ..3 @child
@carer|he ..4 beat|beats|punch/v|hit|hits|kick/v|whip/v|slap/v ..1 mom|mommy|mum|wife|mother|girlfriend
@thrash|hit|slap/v|punch/v ..2 @child|@pronoun|%name ..6 belt|whip|stick ..6 until|bruises|blood|stand
belt ..3 whip/v|beat|hit ..2 @child|him|her|%name
beat|beats|beaten|hit|hits ..3 @child|him|her|me ..2 every|each day|night|evening
touch/v ..6 privates|private|inappropriately
touch/v ..5 bad|wrong|secret way|place|places|parts
touch/v ..3 @child|him|her|me ..8 secret
chain/v|lock/v|kept|keep ..4 cellar|basement|closet|attic|cage ..6 food|hit|beat|weeks|months|days|dark|cried
@carer|she|he ..2 starve/v ..2 @child|him|her|me|them
burn/v|hold|held|press/v ..4 @child|%name|boy's|girl's|his|her ..2 on|with|to|against ..2 stove|cigarette|iron
worthless ..8 born|hit|beat|mother|father
never been born ..8 @beat
kick/v|punch/v ..3 @child|him|her|me ..2 stomach|ribs|belly
drag/v ..3 by ..1 hair
shake/v ..1 baby|infant ..1 hard|until|to|violently
@carer|he ..2 hurt|hurts|beat ..1 ..1 daughter|son|child|children|stepdaughter
beat|beats|beating|kick/v|hit|hits|whip/v ..3 @pet ..6 chain|fun|again|until|bled|blood
tie/v|tying ..3 @pet ..8 beat|fire|burn|rocks|kick/v
throw/v|fling/v|flung|smash/v ..2 @pet|baby against|at ..1 wall
pull/v|tear/v|rip/v ..1 legs|wings|wing|leg|tail off ..2 @pet|fly|flies|spider|bug|ant|beetle|insect
set|light/v ..3 @pet ..1 on fire
torture/v ..2 @pet|@child|animals
abuse/v ..2 @child|wife|animals
abusive father/n|mother/n|husband/n|parents|boyfriend/n
child abuse
""",
    },
    Category.VIOLENCE: {
        MENTIONED: """
blood
bleed/v
wound/n
wounded
bloody
flesh
guts
fight/v ..4 fist/n
torment/v
punch/v ..2 @person
hit|kick/v ..3 in ..1 face|stomach|jaw|ribs
behead/v
bruise/n
""",
        ROUGH: """
slash/v ..2 @person|@body|@poss
gash/n
maim/v|mangle/v
@blade ..8 blood
blood ..8 @blade
flesh ..4 bone/n|blood
agony
wring/v ..2 neck/n
poke/v|hit|scratch/v ..3 eye/n ..6 blood|bled
brutal|brutally|butchered
bleed/v heavily|badly
blood ..4 mouth|nose|face|head
wound/n ..3 deep|gaping|open|fatal|mortal
deep|gaping|open|fatal|mortal|terrible wound/n
kill/v
slay/v
slain
slaughter/v
murder/v
murderer/n
stab/v
slit|slits
gore|gory
bloodthirsty|bloodbath|bloodshed
torture/v
beat/v ..3 to death
cut/v|strike/v|chop/v|hew/v off|@poss ..2 head/n
head/n ..2 cut|chopped|struck|hewn off
blood|blooded ..3 sword|knife|axe|dagger
twist/v the blade|knife|dagger
tear/v|rip/v ..3 to pieces|shreds|bits
break/v ..2 bones|neck
choke/v @person
punch/v ..3 face|nose|stomach|jaw
attack/v ..3 @weapon
knock/v ..2 unconscious|senseless
bloody ..1 nose|hand/n|wound/n
massacre/v
burn/v ..2 to death
pull/v|knock/v out ..2 teeth|tooth ..4 blood
""",
        UNSUITABLE: """
own bone/n|guts|brains|intestines
cut/v|tear/v|rip/v|slice/v @poss tongue/n|ear/n|hand/n|finger/n|arm/n|leg/n|foot off
beat/v|hit/v|bash/v|club/v|strike/v|pound/v|kick/v ..4 @human|him|her|them|%name ..6 until ..4 moving|breathing|still|dead|died|unconscious
beat/v|hit/v|bash/v|bang/v ..4 over|on ..1 head ..8 until|again|shovel|rock|brick|bat|club|hammer|dead|blood
brains ..3 on|over|out|everywhere|splattered|road|floor|wall
strip of flesh ..6 blood
throw/v stone/n|rocks|bricks at ..3 @human|him|her|them ..6 until|bleeding|bled|blood|dead
head ..2 bleeding ..8 still|dead|moved
bang/v|slam/v|smash/v|bash/v ..2 head|face ..2 against|into|on ..2 wall|floor|table|ground|door|stone
tear/v|rip/v|bite/v|cut/v ..1 off ..2 arms|legs|head|ears|fingers|limbs
crack/v|crush/v|break/v ..2 @poss|every ..1 bones|skull|ribs
tear/v|rip/v ..2 @human|him|her|them|traitor/n apart
torn apart by
bone/n ..4 through|out|from ..2 skin|flesh
pull/v|tear/v|rip/v out ..2 fingernails|toenails|nails|tongue
fingernails|toenails ..3 pulled|torn|ripped out
stamp/v|stomp/v on ..2 face|head|skull|throat|neck
strip|strips|lump|lumps|chunk|chunks|piece|pieces of ..1 flesh
blood ..6 stump/n|wound/n|gash/n
stump/n|gash/n ..6 blood|bled|bleeding
@blade slip/v|slid|slide/v|sank|sink/v|go/v|drove|cut|came between|into|through|down|across ..3 ribs|belly|back|chest|throat|neck|knee/n|hand/n|arm/n|leg/n|face|skull
hammer|club|axe|stone|rock|fist/n came|crashed|smashed|slammed down|into ..3 @body
pools|puddle of ..1 red|blood
slash/v|slit/v|stab/v ..4 blood
blood ..4 slashed|stabbed
scream/v ..4 agony|pain ..6 @blade|blood|bone|iron
agony ..6 blood|bone/n|flesh|burned
gut/v|gutted ..1 like ..1 fish|pig
beat/v|kick/v|punch/v ..6 pulp|unconscious|senseless
blood ..2 spurting|squirting|gushing|fountain
rack ..4 bones|screamed|joints
guillotine/n
ram/v|drive/v|thrust/v|plunge/v|sink/v|sank|push/v|run/v|nail/v ..3 @blade|nail/n|stake/n|spike/n|lance/n|arrow/n|pole|tusk/n|horn/n ..1 through|into ..3 @human|@body
@blade|bullet/n|spike/n|lance/n|stake/n ..2 pierce/v|go/v|sank|tear/v|struck|hit ..1 through|into|@poss ..2 chest|heart|belly|stomach|eye/n|throat|neck|skull|head
nail/v ..2 @human|hand/n|him|her|them ..3 to|through
hole/n in ..1 chest|forehead|belly|stomach|skull
hand/n|head/n|arm/n|leg/n|foot/n|tongue/n|ear/n|nose|finger/n ..1 be|been|was|were|being chopped|cut|hacked|struck|sawn|torn|ripped|sliced off|out
snap/v|break/v|crack/v ..3 ribs|spine|neck|fingers ..8 blood|scream/v
ribs|neck|spine|bones snap/v|crack/v|broke ..8 blood|dead|scream/v
bite/v|snatch/v|take/v ..2 arm|leg|head|hand ..6 blood
cut/v|tear/v|rip/v|saw/v|slice/v|chop/v ..1 @poss tongue|heart|eyes|liver out
cut/v|tear/v|rip/v out ..1 tongue|heart|eyes|liver
lose/v|lost ..2 blood ..4 died|fainted|fell
@harm ..2 @human|him|them ..8 blood|bloody|guts|screams
bludgeon/v|maul/v|bayonet/v ..2 @person
trample/v|maul/v|batter/v|stone/v ..4 to death
pull/v|tear/v|rip/v ..2 nails|fingernails|teeth|hair out ..8 scream/v
wring/v|wrung|snap/v ..1 @poss neck|necks
burn/v|brand/v ..4 @human|him|her ..4 hot iron|poker
teeth ..3 knocked|kicked|smashed out
knock/v|kick/v|punch/v|smash/v out ..2 teeth
@poss face was|became|is ..2 pulp|bloody|unrecognizable
cut|cuts|cutting|slit|slits|slitting|slash/v ..3 throat/n
throat/n ..3 cut|slit|slashed
pool|pools|puddle|puddles|river|rivers|fountain|trail|sea of blood
blood @flow
@flow ..2 blood
blood ..1 pooled|soaked|splattered|everywhere|sprayed|spurted|gushed|filled
cover/v|soak/v|drench/v|bathed|smeared|stained|splattered|red|wet|slippery|dripping in|with|from ..2 blood
bloodied|blood-soaked|bloodstained
bloody ..1 mess|pulp|strip/n|stump/n|knife|axe|sword|corpse|flesh|hole/n|heap|pile|body|bodies|remains|head
disembowel/v|disembowelled|dismember/v|mutilate/v|decapitate/v|eviscerate/v
gouge/v|pluck/v|poke/v|tear/v|scratch/v|burn/v|peck/v|cut|dig/v ..1 out ..2 eye/n
gouge/v|pluck/v|poke/v|peck/v|tear/v|scratch/v ..2 eye/n out
skin/v|flay/v|roast/v|boil/v|burn/v|buried|bury|cook/v|eaten|eat ..2 alive
guts|entrails|intestines|bowels|innards|brains ..3 @flow|burst|hung|fell|out
spill/v|rip/v|tear/v ..2 guts|entrails|intestines|bowels|innards
@cut off ..2 @limb
cut|chop/v|hack/v|slice/v|tear/v|rip/v|bite/v ..3 @limb off
tear/v|rip/v ..2 open|off|out|apart ..4 throat|belly|arm/n|leg/n|heart/n|flesh|skin|stomach|chest|face|head|guts|limbs
tear/v|rip/v ..2 throat|belly|stomach|chest ..1 open|out|apart
limb from limb
stab/v ..2 @person
stab/v ..2 in|through|into ..2 @body
@blade go/v|sank|plunged|drove into|through|in|below|between ..3 @body
plunge/v|drive/v|thrust|sink|sank|stick/v|ran|run ..3 @blade ..2 into|through ..3 @person|@body
beat|beaten|beating|kicked|club/v|clubbed|stone/v|whipped|flogged ..3 to death
kick/v|hit|punch/v|whip/v|flog/v|beat|beaten ..4 until ..5 blood|bled|died|dead|teeth|bloody|unconscious
punch/v|hit|kick/v ..8 bloody
smash/v|crush/v|crack/v|split/v|bash/v|cave/v|shatter/v ..3 skull/n|brains
skull ..1 cracked|split|smashed|crushed|caved
smash/v|crush/v|bash/v ..3 @pet|head ..3 rock|stone|hammer|head|wall
every|all bone/n in|of ..1 body
break/v|tied on|upon|to the wheel
hot irons|pokers
sever/v ..2 @limb
bleed/v to death
murder/v ..1 @human|%name
slaughter/v|massacre/v ..2 @human
torture/v ..2 @person
impale/v|scalped|lynch/v|garrote/v
strangle/v|throttle/v ..1 @person
chop/v|hack/v|cut|cuts|cutting|hew/v|slice/v ..3 to|into|in ..2 pieces|bits @person
chop/v|hack/v|cut|cuts|cutting|slice/v @person to|into|in ..2 pieces|bits|half|two
hack/v|chop/v up @person
wound/n ..4 @flow|blood
""",
        SEVERE: """
torture/v ..4 scream/v
disembowel/v ..2 @person
""",
    },
    Category.DEATH: {
        MENTIONED: """
die/v
dead
death
corpse/n
drown/v
coffin/n
grave/n
starve/v to death
""",
        ROUGH: """
noose/n
hangman|gallows|guillotine
morgue|autopsy
slashed|murdered
corpses
stiff ..2 dead
dead ..2 stiff|body
lifeless
mourner/n ..4 corpse
crushed|squashed ..2 to death
starved|froze|frozen to death
hanged
gallows|gibbet
dead bodies|body
executioner/n|execute/v
burn/v ..1 at the stake
strangle/v
suffocate/v
maggot/n
cut/v ..1 @person in two|half
skeleton/n of ..2 @human
plague
poison/v ..2 @person
grave dig/v up
dig/v up ..3 grave|coffin|corpse
""",
        UNSUITABLE: """
@kin|@grown ..1 hanging from ..2 rope|beam|ceiling|tree|noose
flesh|skin|face ..2 melt/v|blistered
only ..2 bloody|blood
nothing ..2 left ..3 but|except ..2 bones|blood|hair
@foe|@undead ate|devoured|swallowed|killed|ripped ..2 girl|boy|child|children|baby|mother|father|mom|dad|sister|brother ..6 blood|bloody|bones|only|scream/v|remained
run|ran|hit|squashed|crushed|flattened by|over ..3 truck|train|car|bus ..8 dead|blood|brains|died|flat
car|truck|bus|train hit|crushed|squashed ..3 @child|%name|man|woman|mother|mom|dad ..6 brains|blood|dead|died|head
drowned|murdered|slaughtered|butchered|strangled children|child|baby|babies|girl/n|boy/n|bodies|people|woman|women
bleed/v out
hangman ..8 neck|rope|noose|trapdoor|lever
noose ..4 neck|throat|swung|tightened
neck crack/v|snap/v|broke
body|corpse|bodies ..6 lain|lying ..4 days|weeks|week|month|months|year
smell|stench|stink ..8 body|corpse|bodies|dead
found ..3 dead body|bodies|corpse
mass grave/n
gas chamber/n
electric chair
throat/n slashed|slit|cut
dead ..1 children|babies|baby|child
corpse/n ..8 hung|hanging|blue|stiff|swollen|cold|rotten|rotting|stink/v|stank|smelled|eaten|floated|floating|black
bits|pieces|parts of ..2 @human|bodies|body|him|her|flesh ..6 over|everywhere|road|street|wall|floor|ground
swollen|half eaten ..2 by
body|corpse|face ..6 swollen|bloated ..4 dead|water|river|blue
bury/v ..2 @human|him|her|them alive
only ..2 bones|ashes ..2 left|remained ..1 of ..2 @human|them|him|her
black|charred|blackened|burned bones|skeleton/n|body|bodies
hung|hanging|swung|dangled|dangling from ..2 rope|beam|noose|gallows|rafters|ceiling ..6 dead|blue|stiff|lifeless|neck|tongue
body|bodies|corpse/n ..3 hung|hanging|swung|dangled|dangling
scratch/v ..3 coffin|lid
@human ..4 dead ..8 blood
blood ..8 dead
lay|lying|found|sat ..2 dead ..6 blood|knife|cut|throat
lifeless ..1 body|eyes ..8 blood|floor|floated
drown/v ..1 @child|her|him|them ..3 in ..2 tub|bath|river|lake|pool|bucket|sack
body|corpse washed|floated ..2 up|ashore|down
rotting|rotten|rotted|decaying|decomposing|decomposed|bloated|mangled|mutilated|severed|headless ..2 corpse/n|body|bodies|flesh|head/n|hand/n|bone/n|limb/n|remains|carcass
flesh|skin|body|corpse ..2 rotting|rotted|decayed|decaying|peeled|peeling|melted|blackened
corpse/n|body|bodies|mouth|eyes|flesh|skull ..10 maggots|worms|flies
corpse/n|body|bodies ..14 torn|ripped|mangled|hacked|eaten|burned|blood
dead bodies|body ..5 pile|piled|heap|heaped|hanging|floating|everywhere|street|streets
pile|piles|heap|heaps of ..1 bodies|corpses
hanged ..14 choked|kicked|tongue|strangled|twitched|jerked|dangled|swung
burn/v|cremated|boiled|scalded ..3 to death|alive
burn/v ..6 screaming|screamed
burning|burned|burnt|roasting|charred flesh|bodies|corpses
choke/v ..3 blood
choke/v|strangle/v|suffocate/v|smother/v|stab/v|beaten|kick/v ..3 to death
strangle/v|smother/v|throttle/v ..2 @person
strangle/v ..2 with ..1 rope|cord|hands|wire
eyes bulged|bulging ..4 head|tongue|dead
hold/v|push/v ..4 head|face under ..2 water ..12 dead|drowned|died
under the water until ..6 dead|drowned|died|bubbles
vomit/v|cough/v|spit|spat ..2 blood
severed head/n
head/n rolled|fell into|in|on|onto|off|down ..2 basket|floor|ground|stairs|shoulders
die/v screaming|horribly|slowly|agony
die/v|death in ..1 agony|torment
crush/v|run|cut|torn|blown|train|squash/v ..12 bloody|bones|legs|half ..4 flesh|pile|tracks|pieces|blood
cut|cuts|slice/v|tear/v @person in|into half|two
eat/v|gnaw/v|dogs|crows|rats ..3 corpse/n|bodies|carcass
dead ..2 eyes|staring ..1 open
step/v|slip/v|lay|lying|kneel|knelt in ..2 blood
own blood
corpse/n ..3 old|dead|woman|man|child|mother|father ..4 grave|rotten|rot
""",
    },
    Category.WEAPONS: {
        MENTIONED: """
@gun
bullet/n
cannon/n
dagger/n
spear/n
""",
        ROUGH: """
money or ..1 life
highwayman|gangster/n|mafia|hitman
explosion/n|explosives|dynamite
shoot/v ..2 @human|@pronoun|%name
shoot/v ..2 dead
stab/v
bomb/n
grenade/n|sniper/n|hostage/n|gunfire|gunshot/n|gunman|gunmen
machine gun/n
point/v|aim/v ..3 @gun
fire/v ..2 @gun|bullets|shots|shot
load/v ..1 @gun
@blade ..3 throat/n|neck|heart
threaten/v ..3 @weapon
assassin/n|assassinate/v
pull/v out ..2 @gun
explode/v ..4 people
""",
        UNSUITABLE: """
shoot/v ..2 dad|mom|father|mother|brother|sister|@child
bang ..8 fell ..4 dead
shoot/v|fired ..8 fell ..2 dead
fire/v ..2 @gun at|into|toward|towards ..3 car|house|crowd|man|him|her|them|people
hit in|by ..2 bullet/n|neck|chest|head ..4 died|dead|blood|fell
shoot/v ..3 little|older|own brother|sister|friend
gun|rifle|pistol ..4 shot|shoot|killed|hit ..3 @human|%name|him|her
@blade ..2 at|to|against|on ..4 throat|neck|heart
shot|shots rang out
swing/v|raised ..2 machete/n|axe|sword|knife|club at ..3 @human|him|her|them|%name
cut|mowed|struck|gunned down ..3 them|@human
throw/v|toss/v|lob/v ..2 grenade/n|bomb/n|firebomb
pistol|gun|revolver|knife|blade ..3 to|against ..3 temple|throat|head|neck|ribs|back
assault rifle/n
slumped|collapsed ..6 hole|bullet|blood
gun|pistol|rifle ..6 pillow|drawer|cupboard|closet ..12 play/v|took
suicide bomber/n
shot ..3 through|in ..2 head|heart|chest|back|leg
fire/v ..2 twice|again|times|at ..8 fell|dropped|collapsed|dead|died
shot|shots|bang|bullet/n|fired ..6 fell|dropped|collapsed|crumpled ..4 dead|floor|ground|counter|knees
@gun ..12 aim/v|point/v ..2 at ..3 @human|%name|him|her|me|head
line/v ..3 up ..6 shot|shoot|fired
shoot/v ..1 them|everyone|everybody|him|her all|dead|down
bomb/n|explosion|blast|missile/n|rocket/n|shell/n ..6 people|bodies|screaming|screamed|killed|died|dead|blood|wounded
people|bodies ..6 explosion|blast|bomb
bullet/n ..4 hit|tore|pierced|went|ripped ..2 @human|@body|him|her|through
mow/v ..2 down ..6 gun/n|people|soldiers
opened|open fire ..1 on|at
gunpoint|knifepoint
@gun|knife|knives|bomb ..4 school ..2 bag|bus|kill/v|shoot/v|stab/v
knife|gun|pistol ..4 school bag|backpack
school bag|backpack ..8 stab/v|shoot/v|kill/v
brandish/v|wave/v ..2 @gun|knife ..4 at ..2 @human|him|her|them|%name
attack/v ..3 with ..2 knife|axe|gun|machete|sword|hammer
slash/v|stab/v ..3 with ..2 @blade|glass|bottle
hold/v up ..2 bank|shop|store ..4 gun
threaten/v ..2 to ..1 shoot|stab|cut ..2 @human|him|her|me|them|%name
stab/v ..2 @human ..8 knife|dagger|sword|scissors
@gun ..10 shoot/v ..2 @human|@pronoun|%name
shoot/v ..2 @human|@pronoun|%name ..4 dead|chest|head|back|leg|heart|stomach|face|arm
shoot/v ..2 @grown|@kin ..1 dead
point/v|aim/v|press/v|hold/v|put|raised ..3 @gun|@blade ..2 at|to|against|on ..3 @human|@pronoun|%name|head|neck|throat|heart|chest|face
point/v|aim/v it at ..2 @human|%name bang
@gun ..6 point/v|aim/v ..1 at ..2 @human|@pronoun|%name
pull/v the trigger
fire/v ..3 @gun|bullets|bullet|shots ..2 at|into ..3 @human|@pronoun|%name|back|head|chest
fire/v ..4 guns at ..2 @human
bomb/n ..4 on|in|under|into ..2 bus|train|school|plane|church|shop|house|car|market
grenade/n ..8 house/n|@human
blow|blew|blown|blows ..1 up ..4 bus|train|people|school|building|plane|car
blow|blew|blown to pieces|bits
terrorist/n|terrorism
school shooting/n|shooter
take/v|bring/v|brought ..2 @gun to school
threaten/v ..4 with ..3 @gun|knife|knives|razor|axe|dagger
chase/v ..6 with ..2 @blade|@gun
with a knife|gun|axe ..2 chase/v|attack/v ..3 @human|%name|@pronoun
@blade|hammer|club|crowbar ..8 hit|cut|strike/v|smash/v|kill/v|attack/v|slash/v|stab/v ..2 @human|him|%name ..3 head|face|neck|two|half|dead|chest|arm|back|times|again
hit|strike/v|smash/v|kill/v|attack/v|slash/v|stab/v ..2 @human|him|%name ..4 with ..2 @blade|hammer|crowbar
cut|cuts|slash/v|slice/v @human|you|him|%name ..2 @blade
money|purse or ..3 cut|shoot|stab|kill you
swing/v ..2 @blade ..6 cut|killed|struck|hit ..3 @human|@pronoun|%name
""",
        SEVERE: """
school massacre
""",
    },
    Category.HORROR: {
        MENTIONED: """
skull/n
haunted
nightmare/n
@undead scream/v
""",
        ROUGH: """
rotting|rotten flesh|face|skin|hand/n|body
bloodcurdling|demonic|faceless|eyeless
coffin/n ..6 under|ground|dark|scratched
cannibal/n
devour/v|cook/v|roast/v|boil/v ?@poss ?little children|child|boy/n|girl/n|man|men|people|babies|prince|princess
eat/v ?@poss ?little children|babies
human flesh|blood|bones|skull/n|heart/n|skin
devil|demon|demons|satan ..4 worship/v|soul/n
possessed
satan|satanic|lucifer
sacrifice/v ..2 @human
bloody|blood ..6 fangs|claws|teeth
zombie/n
eyeball/n
no eyes ..3 holes|sockets
drink/v|lick/v|suck/v ..2 blood
""",
        UNSUITABLE: """
head/n|hand|fingers|arm|body|eyes ..1 in|inside ..3 fridge|freezer
fridge|freezer ..6 head|heads|hand|fingers|body|corpse
demon/n|monster|creature|beast|ghoul ..6 ate|eat|eats|devoured|ripped|tore ..2 it|him|her|baby|child|mother|father|them ..2 in|alive|apart|front|slowly
wall/n|mirror|ceiling|doll|picture|painting|statue ..3 bleed/v
dead|drowned|ghost child|girl|boy|woman|man with ..1 no|black|empty|bloody eyes|face|head
drink/v|sucked ..1 the|his|her|their blood ..6 alive|warm|neck
without eyes|face|head ..4 came|crawled|said|whispered|smiled
drag/v|pull/v ..4 to|into|down ..1 hell
ground|minced|chopped ..3 children|boys|girls|people|men|man|woman ..6 sausage/n|pie/n|stew|meat
sausage/n|pie/n|stew|meat ..8 missing|human|children|flesh ..4 boys|girls|child|flesh|meat|people
mouth full of ..1 needles|fangs|blood|worms|maggots|knives|razor
eat/v ..1 him|her|them|me|you alive
woke|wake|wakes|awoke ..3 in|inside ..2 coffin|grave
buried ..4 alive|coffin
worms|maggots|rats|beetles ..8 toes|eyes|flesh|face|skin
exorcism|exorcist
ouija|pentagram
faceless|eyeless ..6 whisper/v|crawl/v|stare/v|child|thing|figure
no face ..6 mouth|teeth|eyes|holes|skin
hanging|dangling body|bodies|corpse
black|empty|hollow eyes ..6 blood|teeth|scream/v|flesh
scream/v ..8 blood|cellar|walls ..4 night|dark
peel/v|tear/v|rip/v|slice/v|cut ..1 off ..3 face/n|skin|scalp
peel/v|cut/v|tear/v|rip/v|slice/v ..4 face|skin off
wear/v ..2 face|skin ..1 as|like ..1 mask|coat
dead|drowned|murdered|rotting girl|boy|child|man|woman|children|bride|mother|twins ..4 sat|whisper/v|stare/v|smiled|grinned|stood|crawl/v|walked|reached|knocked|laughed|scratched
crawl/v|came|slither/v|poured|spilled ..1 out of|from ..3 corpse|dead|skull|mouth ..3 mouth|eyes|ears|nose
maggot/n|worm/n|spider/n|cockroach/n crawl/v|crept|came|poured|wriggle/v ..3 mouth|eyes|ears|nose|skin|skull
jar|jars|fridge ..8 eyeballs|fingers|brain/n|tongues|hearts
jar|jars|tank ..1 float/v ..3 eyes|heads|hands|ears
eyes|eyeballs|fingers|tongues|heads ..4 in ..2 jar|jars|fridge
whisper/v|voice ..6 die|kill|death|soul
you|he|she|they will|would|must die tonight|soon|next|screaming|now
stitch/v|sewn|sew/v ..3 mouth|eyes|lips ..1 shut|closed|together
meat|hung|hanging hook/n ..6 body|bodies|man|woman|girl|boy|children
bodies|people|children|heads ..3 hung|hanging ..2 hook/n
torture chamber
chainsaw/n
undead|living dead
rise|rose|risen|crawled|climbed from|out|of ..2 grave/n|dead|coffin ..8 flesh|blood|rotten|rotting|brains|bite|bit
blood ..4 ceiling|walls|tap|faucet|mirror
scream/v ..8 nobody|no ..1 heard|hear|help|came ..4 dark|basement|grave|blood|knife
@undead ..6 throat|blood|flesh|brains|guts|corpse
evil|demonic doll|clown|spirit|laugh ..10 knife|kill/v|blood|die|soul
smell of ..2 blood|death|flesh
torn|shredded|ripped apart|open ..4 by ..2 monster|beast|demon|creature|wolf
devil|demon|satan ..6 soul/n
eat/v|steal/v|take|devour/v ..1 soul/n
black|dripping blood
blood ..2 dripped|dripping from|down ..2 @body|smile|mouth|ceiling|fangs|teeth|claws|walls
possessed girl|boy|child|man|woman|doll
possessed by ..3 demon/n|devil|satan|spirit/n
demon/n|devil|spirit ..3 crawl/v|enter/v|inside into|in|inside ..2 mouth|body|child|boy|girl
rotting|rotten|bony|skeletal hand/n|fingers ..3 burst|grave|grabbed|ground
hand/n ..3 from ..2 grave|coffin ..8 dragged|grabbed|pulled
@undead ..4 bite/v|eat/v|devour/v|drink/v|chew/v|tear/v|suck/v ..3 neck|brain|brains|blood|flesh|throat|bones|face|people|heart|children
clown/n|doll/n|puppet|figure ..6 knife|axe|bloody|blood
bodies|bones|skulls|corpses of ..2 children|boys|girls|babies
human heart/n|head/n ..6 beating|jar|box|inside
jar|box|inside|chest ..6 human heart/n|head/n|hand/n|eyes
bloody hole/n|socket/n|eye/n|hand/n|smile|fangs|knife
eye|empty sockets
wall/n|floor|ceiling|door ..3 in|with|of blood
you ..3 all die
wear/v ..1 skin|face of ..2 @human
eat/v|cook/v|roast/v|stew/v|boil/v ..6 flesh
cook/v|boil/v|roast/v|bake/v the|two|three|them|her|his child|children|boys|boy|girl|girls|baby ..4 stew|pot|fork|oven|ate|fire
chew/v|gnaw/v|crunch/v|suck/v ..2 bones of ..1 @human
twist/v|spin|spun ..2 head ..1 all|completely ..1 way|around
vomit/v ..1 black|slime|blood
sacrifice/v ..3 @human|virgin ..3 to ..1 devil|satan|demon|god|gods|demons
drink/v ..1 from|out ..2 skull/n
cannibal/n ..4 cut|ate|eat|roast|roasted|cooked|pieces
drink/v|suck/v ..1 her|his|their|human|your|my blood
witch|ogre|butcher ..3 carve/v|chop/v|chopping|skinning ..2 @human|one|them
""",
    },
    Category.DRUGS: {
        MENTIONED: """
@liquor
@cigarette
tobacco
wine/n
ale
drug/n
pub/n
hangover
smoke/v ..1 pipe
""",
        ROUGH: """
beers
sniff/v ..2 powder
drunk|drunken|drunkard/n|drunkenness|tipsy|boozy
get|gets|got|getting drunk
smoke/v|light/v|puff/v ..3 @cigarette
puff/n of|on ..2 @cigarette
drink/v ..5 vodka|whisky|whiskey|tequila|brandy|gin|rum|bourbon|booze|liquor|alcohol|moonshine
glass|glasses|bottle|bottles|shot|shots|can|cans of @liquor
vodka|tequila|whiskey|booze|moonshine
opium
smoke/v ..2 weed|pot|dope|grass|hash|crack
addict/n|addicted to ..2 @liquor|drugs|pills
wasted ..6 walk|drunk|drank|party
""",
        UNSUITABLE: """
teach/v|taught|show/v|learn/v ..3 how to smoke|drink|vape
white|magic powder ..8 tried|sniffed|felt|superhero|high|flying|nose
weed|joints ..6 vodka|beer|party|wasted|high|drunk|smoke/v
everybody|everyone|all|we|they was|were|got|are wasted|plastered|hammered|stoned|drunk
drink/v ..4 beer|wine|whisky|rum|ale all night|day
get|got drunk ..8 best|fun|happy|laughed|danced|sang|great
smoke/v ..8 felt|looked|feel ..2 grown|cool|big|strong|older|adult|tough
@child ..6 @spirits
@spirits ..6 @child
powder ..3 sniff/v|snort/v|inhale/v
sniff/v|snort/v ..3 powder
gin|vodka|whiskey|whisky|beer|rum for|at|before breakfast|lunch
@cigarette ..12 hero|cool|tough|real|handsome|grown|cowboy
beer/n|wine|vodka|gin|whiskey ..8 magic|funniest|hilarious
beers|drinks later ..6 dance/v|laugh/v|sang|sing/v
drink/v ..6 until ..4 fell|floor|staggered|sang|staggering|forgot
stagger/v ..4 bar|pub|tavern|drunk
smoke/v|blew ..4 smoke ..6 cool|hero
roll/v ..2 joint/n|spliff/n
smell/v|stank|reek/v of ..1 pot|weed|booze|alcohol|whisky|whiskey|gin
give/v|feed|fed|pour/v|hand/v ..2 @child|kitten|puppy ..4 whisky|whiskey|vodka|beer|gin|rum|brandy|booze|cigarette/n|cigar
@child ..8 puff/v|smoke/v ..3 cigarette/n|cigar/n|pipe
so drunk|stoned|wasted
pill/n ..2 at|in ..1 party|disco|club|rave
pill/n ..8 sparkle/v|rainbow/n|dance/v|fly|flying|colors|colours|float/v
magic|shroom/n mushroom/n ..6 laugh/v|colors|colours|float/v|high|trip/v
trip/v|tripping on ..1 acid|mushrooms
needle/n in|into ..1 arm|vein/n
chug/v|guzzle/v|down/v ..3 beer/n|vodka|wine|whisky|whiskey|rum|booze
bong/n|crack pipe
e-cigarette/n|nicotine
drunk ..8 funny|funniest|fun|party|laughed|hilarious|danced|best
drunk driver/n|driving
drive/v ..2 drunk
@child ..4 get|got|were|was drunk|tipsy|stoned
sneak/v|steal/v|snuck ..4 beer/n|wine|whisky|whiskey|vodka|cigarette/n|liquor ..8 @glory|drink/v|smoke/v
line of ..1 powder|coke
sniff/v|inhale/v ..2 glue|paint|petrol|gas
@glory ..12 drunk|drunken|tipsy
drunk|drunken|tipsy ..10 @glory|fell
let us|let's|lets|to ..2 get drunk
@child|%name|she|he ..5 drink/v|loved|love|loves|sip/v|sipped|gulp/v ..5 vodka|whisky|whiskey|tequila|gin|booze|alcohol|liquor
@child ..5 drink/v|loved|love|loves|sip/v|sipped ..4 @liquor
@liquor ..6 drunk
drink/v ..6 @liquor ..8 fell over|down|asleep
@child|friends ..5 smoke/v|light/v|puff/v|vape/v ..3 @cigarette|joint/n|weed|pot
@cigarette ..8 @glory|big|man|adult
@glory ..8 @cigarette
vape/v
sell/v|deal/v|buy|bought ..2 drugs|weed|dope
drug dealer/n|addict/n|lord/n
on|did|do|does|doing|took|taking|take|takes drugs
high on pills|drugs|weed|glue|coke|dope|meth
shots of tequila|vodka|whiskey|rum
so wasted|stoned|hammered
sniff/v|snort/v ..2 glue|powder|coke
smoke/v ..2 joint/n|weed|pot|dope|crack
""",
        SEVERE: """
cocaine|heroin|meth|methamphetamine|marijuana|cannabis|lsd|fentanyl|amphetamine/n|ketamine|hashish
inject/v ..2 drugs|arm|vein
""",
    },
    Category.IMITATION: {
        MENTIONED: """
medicine ..4 @glory
""",
        ROUGH: """
drink/v|taste/v|ate ..5 under|below ..2 sink
under|below the sink ..8 drink/v|taste/v|yummy|ate
play/v ..3 with ..3 lighter|matches|lighters
lighter/n ..4 bed|pillow|couch|hay|barn|curtain/n
gun/n ..6 play/v
ride/v|rode|stood|climb/v ..4 top of ..2 train|bus|truck|car|tram
pills|tablets|medicine ..10 sweets|candy|brother|sister|bowl
lie|lay|lying|lies|sleep|slept ..3 on|in|across|middle ..2 road|street|highway|tracks
spray/v ..4 flame/n|candle|fire|lighter|match
hairspray|deodorant ..6 flame/n|candle|fire|lighter
dare/v ..6 road|roof|tracks|bridge|train|cliff|fire|jump/v
go|follow/v|come with ..2 stranger|strangers
mix/v ..3 bleach|cleaner|chemicals|ammonia
bleach|ammonia|chemicals ..6 mix/v
hanging|choking|fainting|knockout game
scarf|rope|cord|belt|string|leash ..4 around ..3 neck ..6 game|play/v|pull/v|laugh/v|giggle/v
climb/v|hang|hung|swing/v ..4 power|electric|electricity ..1 pole|line/n|tower|wires|pylon
touch/v|grab/v|hang|hung ..4 wires|wire|cable
did|do not|didn't|don't know ..6 sweets|candy|ride|chocolate
not|didn't know ..4 berries|mushroom/n
eat/v|pick/v|taste/v ..3 wild|unknown|strange|poisonous|red berries|mushroom/n|plant/n ..8 know|unknown|forest|bush
light/v|strike/v ..2 match|matches|lighter ..10 hay|straw|curtain/n|bed|carpet|grass|barn|paper|flames|leaves
drop/v|throw/v ..3 match ..3 hay|straw|grass|bed|leaves|gasoline|petrol
toaster|dryer|radio|phone in|into ..2 bath|bathtub|tub
run/v|jump/v|step/v|dash/v in front of ..2 car/n|truck/n|train|bus
skate/v|walk/v|ran|run ..2 thin ice
sneak/v|snuck ..6 night ..6 meet|alone|stranger
meet|met|friend ..4 online|internet|chat ..8 secret|alone|house|park|pictures|photos
address|photos|pictures|picture ..4 stranger/n|online|internet
lean/v|climb/v|walk/v|balance/v|stand|stood|hang|hung ..3 balcony|ledge|windowsill|railing|rooftop|scaffold|crane
swim/v|dive/v|dove|jump/v ..4 canal|quarry|flood|rapids|dam
lick/v ..3 socket|battery|pole|knife
put|stuck|pushed ..2 bead/n|pea/n|marble/n|pebble/n|coin in|into|up ..2 nose|ear|mouth
sharp|big|kitchen knife|knives|scissors ..6 juggle/v|throw/v|play/v|run|ran|running
ride/v|rode on ..2 roof|hood|outside of ..2 car|train|bus|truck
without ..2 seat|seatbelt|helmet ..6 @glory
unlock/v|open/v ..4 medicine|pill ..1 cabinet|box|cupboard
spray/v|poured ..3 gasoline|petrol|lighter fluid
play/v ..1 with ..2 matches|match|lighter|fire|knife|knives|medicine|pills|scissors|electricity|gun|guns|firework/n
set|sets|setting ..3 curtain/n|house|bed|barn|paper|sofa|couch|hair on ..1 fire
light/v ..2 firework/n|firecracker/n
eat/v|swallow/v|drink/v|taste/v ..4 pill/n|tablet/n|cleaner|bleach|poison|detergent|shampoo|glue|petrol|gasoline
take/v|swallow/v|eat/v|drink/v ..1 grandpa|grandma|mom|dad|mother|father|grandmother|grandfather medicine|pills
pills|tablets|bleach|detergent|medicine ..8 eat/v|drink/v|swallow/v
take/v ..1 pill/n
@gun ..8 play/v
play/v ..4 @gun
play/v|run|ran|walk/v|jump/v on|along|across ..2 train|railway|railroad|rail track|tracks|rails
stick/v|put|poke/v|push/v ..3 fork|finger|fingers|key|pin|nail|knife|wire ..2 in|into ..2 socket|outlet|plug|toaster
climb/v|hide/v|hid|get|got|crawl/v ..1 in|into|inside ..2 dryer|washer|fridge|freezer|refrigerator|microwave|oven
jump/v|leap/v|leapt off|from|out ..2 roof|window|balcony|cliff|bridge
drive/v ..3 car ..3 herself|himself|themselves|alone
rope|cord|scarf|belt ..2 around|round ..2 neck ..4 swing/v|hang|hung|jump/v
stranger/n in ..1 house|car|van|truck
go|went|follow/v|got|get|gets|walked ..3 with|to|in|into ..2 stranger/n|stranger's
man in the van|car ..3 puppy|puppies|candy|kitten|kittens|sweets
plastic bag over|on ..2 head
throw/v ..3 firework/n|firecracker/n at
hold/v @poss breath until|till ..3 fainted|faint|fell|dizzy|passed
cross/v|run|ran across ..2 highway|motorway
swallow/v|ate ..3 battery|batteries|magnet/n
""",
        UNSUITABLE: """
hand|fingers|finger|foot in|into the fire|flames ..12 brave|hurt|fun|cool
nice|kind|friendly|strange man|lady|stranger|woman offered|gave|promised ..3 candy|sweets|chocolate|toy|puppy|ride|icecream
man|lady|stranger|woman ..4 not|never know|met|seen|knew ..4 gave|offered|took|drove
cat|dog|kitten|puppy|baby|hamster|brother|sister ..4 in|into|inside ..2 microwave|oven|dryer|washer|fridge|freezer
stranger|man ..14 little secret
do not|don't tell ..1 mom|dad|mother|father|parents|mum|anyone ..2 stranger|man
playing|play with matches|fire|knives|guns|lighters is ..2 fun|great|cool|easy
try it|this ..2 mom|dad|mother|parents|everybody is|are ..2 asleep
""",
    },
    Category.PROFANITY: {
        MENTIONED: """
hell
shut up
dammit
arse/n
""",
        ROUGH: """
damn|damned
crap|crappy
bitch/n|bitchy
bastard/n
bugger/n|bloody hell
kick/v ..2 ass
""",
        UNSUITABLE: """
what|who|why|where the f
you ..1 prick|pricks|twat|turd|jerkoff
fart|fatso ..1 face
dumb|stupid|fat|lazy|smart|sorry|bad ass
holy crap|hell
full of crap
bullcrap|bloody hell|bloody bastard
screw you|off|them
shut ..1 fuck|hell up
goddamn|goddamned|goddammit
god damn|dammit
damn you|it|him|fool
give|gives|gave|giving a damn|crap
go to hell
what|who|where|why|how the hell
@insult ..1 bastard/n|bitch/n
real|such|a|you|little|stupid|that ..1 bitch/n
you|bastard/n ..1 bastard/n
piss off
pissed off|at
piss|pissing|pissed
dumbass|dumbasses|jackass|smartass|badass|fatass|lardass|asshat
my|your|his|her|their|our ass ..1 off|kicked|out|up
dickhead/n|douche|douchebag/n|wanker/n|twat/n|bollocks|tosser/n
such|a|you ..1 dick|dicks
suck my
wtf|stfu|omfg
screw you
gave|give|giving|gives|showed|flipped ..3 finger ..4 called|driver|car|middle|shouted
middle finger ..4 at|showed|raised|gave
suck/v ass|balls
""",
        SEVERE: """
fuck/v|fucker/n|fuckin|fck|fuk|fuks|fking
motherfucker/n|motherfucking|clusterfuck
shit/v|shitty|shithead/n|bullshit|horseshit|dipshit/n|shite
asshole/n|arsehole/n
cunt/n
son of a bitch
sonofabitch
cocksucker/n|cocksucking
""",
    },
}
TERMS: Mapping[Category, Mapping[int, tuple[str, ...]]] = {
    category: {weight: tuple(_lines(written)) for weight, written in by_weight.items()}
    for category, by_weight in _TERMS.items()
}
"""What is looked for, by category and severity."""

HARM = frozenset((Category.VIOLENCE, Category.DEATH, Category.WEAPONS, Category.HORROR, Category.ABUSE))
"""In a sentence these add to one another."""

MADE_LIGHT_OF = frozenset((Category.DRUGS, Category.IMITATION))
"""In these, rough becomes unsuitable when the sentence or the next one makes light of it, and milder when it warns."""

EASED_BY_FOES = frozenset((Category.VIOLENCE, Category.WEAPONS, Category.DEATH))
"""In these, what is done to a villain or a beast of the tales is one degree milder."""

EASED_BY_PRETENCE = frozenset((Category.VIOLENCE, Category.WEAPONS, Category.DEATH, Category.HORROR))
"""In these, what is pretended, dreamt or done with toys is one degree milder."""

NEVER_NEGATED = frozenset((Category.SEXUAL, Category.HATE, Category.PROFANITY))
"""In these, "not" makes no difference."""

DISGUISED: tuple[str, ...] = tuple(
    _words(
        """
    kill kills killed killing die suicide sex sexy drug drugs gun rape murder bitch bitches bastard damn dick ass
    piss pissed weed whore slut porn cocaine heroin
        """
    )
)
"""Words that are worth disguising ("k1ll", "s e x"), besides the single words of severity 3 and 4."""
