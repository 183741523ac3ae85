//! The mutants.

use super::edit::{Change, Edit};
use super::setting::Shape;
use crate::exchange_group::Launching;

/// A wrong version.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// What is wrong, for the page.
    pub(crate) what: &'static str,
    pub(crate) shape: Shape,
    pub(crate) edits: Vec<Edit>,
    pub(crate) launch: Launch,
    /// What a report must contain.
    pub(crate) names: &'static [&'static str],
}

/// How it is launched.
#[derive(Clone, Copy)]
pub(crate) enum Launch {
    Right,
    /// On devices with so many SMs, each with room for one CTA.
    Sms(u32),
    /// The plan of routes for this rank's tokens alone.
    PlanOfOwn,
    /// A layer of other sizes on the same regions.
    TwoSizes,
    /// Memory for so many tokens of each rank only.
    Most(u64),
}

impl Mutant {
    pub(crate) fn launching(&self, right: Launching) -> Launching {
        let races = !std::env::var("EMULATOR_RACES").is_ok_and(|races| races == "0");
        let right = Launching { races, ..right };
        match self.launch {
            Launch::Right => right,
            Launch::Sms(sms) => Launching { sms: Some(sms), ..right },
            Launch::PlanOfOwn => Launching { plan_of_own: true, ..right },
            Launch::TwoSizes => Launching { two_sizes: true, ..right },
            Launch::Most(most) => Launching { told_most: Some(most), ..right },
        }
    }
}

const SEND: &str = "send rows of this rank's tokens";
const GATHER: &str = "gather, first product";
const GATHER_NEXT: &str = "gather, second product";
const MULTIPLY: &str = "multiply, first product";
const MULTIPLY_NEXT: &str = "multiply, second product";
const BETWEEN: &str = "function between the products";
const GIVE_BACK: &str = "give results back";
const FINISH: &str = "sum results of this rank's tokens";
const GATEWAY: &str = "sum results for other nodes";
const HAND_ON: &str = "hand on rows from other nodes";
const HEAR: &str = "hear of a rank";

fn edit(role: &'static str, find: &'static str, times: usize, change: Change) -> Edit {
    Edit { kernel: "experts", role, find, times, behind: "", change }
}

fn right(
    name: &'static str,
    what: &'static str,
    edits: &[Edit],
    names: &'static [&'static str],
) -> Mutant {
    let edits = edits.to_vec();
    Mutant { name, what, shape: Shape::Node, edits, launch: Launch::Right, names }
}

fn launched(
    name: &'static str,
    what: &'static str,
    launch: Launch,
    names: &'static [&'static str],
) -> Mutant {
    Mutant { launch, ..right(name, what, &[], names) }
}

fn on_nodes(mutant: Mutant) -> Mutant {
    Mutant { shape: Shape::Nodes, ..mutant }
}

const ACQUIRE: &str = "ld.acquire.sys";
const RELEASE: &str = "st.release.sys";
const PROXY: &str = "fence.proxy.async";
const PARITY: &str = "mbarrier.try_wait.parity";

/// All, those of one shape after the other.
pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        right(
            "relaxed flag of a row",
            "`st.relaxed` sets the flag of a row that was sent",
            &[edit(SEND, RELEASE, 1, Change::Replace(".release.", ".relaxed."))],
            &["`rows`", SEND, GATHER],
        ),
        right(
            "relaxed flag of a result",
            "`st.relaxed` sets the flag of a result",
            &[edit(GIVE_BACK, RELEASE, 1, Change::Replace(".release.", ".relaxed."))],
            &["`results`", GIVE_BACK, FINISH],
        ),
        right(
            "relaxed flag on one GPU",
            "`st.relaxed` sets the flag of an operand of the second product",
            &[edit(BETWEEN, "st.release.gpu", 1, Change::Replace(".release.", ".relaxed."))],
            &["`products`", BETWEEN, GATHER_NEXT],
        ),
        right(
            "relaxed wait for a row",
            "`ld.relaxed` waits for the flag of a row",
            &[edit(GATHER, ACQUIRE, 1, Change::Replace(".acquire.", ".relaxed."))],
            &["`rows`", SEND, GATHER],
        ),
        right(
            "weak wait for a result",
            "a weak `ld` waits for the flag of a result",
            &[edit(FINISH, ACQUIRE, 1, Change::Replace(".acquire.sys.", "."))],
            &["`results`", GIVE_BACK, FINISH],
        ),
        right(
            "flag of a GPU between GPUs",
            "`st.release.gpu` sets the flag of a result on another rank",
            &[edit(GIVE_BACK, RELEASE, 1, Change::Replace(".sys.", ".gpu."))],
            &["`results`", GIVE_BACK, FINISH],
        ),
        right(
            "wait of a GPU between GPUs",
            "`ld.acquire.gpu` waits for the flag of a row of another rank",
            &[edit(GATHER, ACQUIRE, 1, Change::Replace(".sys.", ".gpu."))],
            &["`rows`", SEND, GATHER],
        ),
        right(
            "wait of a CTA between CTAs",
            "`ld.acquire.cta` waits for the flag of an operand of another CTA",
            &[edit(GATHER_NEXT, "ld.acquire.gpu", 1, Change::Replace(".gpu.", ".cta."))],
            &["`products`", BETWEEN, GATHER_NEXT],
        ),
        right(
            "parity of who multiplies",
            "waits for the other phase of the mbarrier of a stage that is filled",
            &[edit(MULTIPLY, PARITY, 2, Change::FlipParity)],
            &[MULTIPLY_NEXT, "an mbarrier"],
        ),
        right(
            "parity of who gathers",
            "waits for the other phase of the mbarrier of a stage that is free",
            &[edit(GATHER, PARITY, 2, Change::FlipParity)],
            &[GATHER, "an mbarrier"],
        ),
        right(
            "a part too few",
            "the last but one part of a block of rows says that all are there",
            &[Edit { behind: "atom.acq_rel", ..edit(MULTIPLY, "setp.ne.b32", 1, Change::Add(-1)) }],
            &["is wrong"],
        ),
        right(
            "a part too many",
            "a part more than there are must be counted",
            &[Edit { behind: "atom.acq_rel", ..edit(MULTIPLY, "setp.ne.b32", 1, Change::Add(1)) }],
            &["`products`", BETWEEN],
        ),
        right(
            "threads of a barrier",
            "who gathers waits for a warp more",
            &[edit(GATHER, "bar.sync 2, 128", 1, Change::Replace("128", "160"))],
            &[GATHER, "barrier 2"],
        ),
        right(
            "a flag before its row",
            "the flag of a result is set before the result is stored",
            &[edit(GIVE_BACK, RELEASE, 1, Change::MoveBefore("st.global.v4"))],
            &["`results`", GIVE_BACK, FINISH],
        ),
        right(
            "no fence between proxies",
            "gathered rows are multiplied without `fence.proxy.async`",
            &[edit(GATHER, PROXY, 5, Change::Remove)],
            &["shared memory", GATHER, MULTIPLY],
        ),
        right(
            "exchanges are not counted",
            "the number of the exchange stays 0, so that flags of the layer before count",
            &[Edit { kernel: "routes", ..edit(HEAR, "st.global.b64", 1, Change::Remove) }],
            &["`routes`", HEAR],
        ),
        right(
            "any flag counts",
            "a row is there when its flag is not 0, whatever exchange it is of",
            &[edit(GATHER, ACQUIRE, 1, Change::FlagIsSet)],
            &["`rows`", SEND, GATHER],
        ),
        launched(
            "a plan of a rank's own tokens",
            "the plan is launched with this rank's number of tokens, not with the group's",
            Launch::PlanOfOwn,
            &[FINISH, "`results`"],
        ),
        launched(
            "two sizes in one region",
            "a layer of other sizes uses the same regions",
            Launch::TwoSizes,
            &[BETWEEN, "`products`"],
        ),
        launched(
            "an SM too few",
            "three CTAs that wait for each other on two SMs; refused when compiled: E0806",
            Launch::Sms(2),
            &["find no room", "`experts"],
        ),
        launched(
            "more tokens than reserved",
            "ranks are told of fewer tokens than one has; the kernels trap",
            Launch::Most(10),
            &["trap", "the begin of `routes`"],
        ),
        Mutant {
            launch: Launch::Most(10),
            ..right(
                "no trap beyond capacity",
                "as the one before, and nothing traps",
                &[
                    Edit { kernel: "routes", ..edit("", "trap;", 1, Change::Remove) },
                    edit("", "trap;", 2, Change::Remove),
                ],
                &["access out of bounds", "tell a rank"],
            )
        },
        on_nodes(right(
            "relaxed flag of a row that is handed on",
            "`st.relaxed` sets the flag of a row that is handed on",
            &[edit(HAND_ON, RELEASE, 1, Change::Replace(".release.", ".relaxed."))],
            &["`rows`", HAND_ON, GATHER],
        )),
        on_nodes(right(
            "relaxed wait for a node's results",
            "`ld.relaxed` waits for the flag of a result that is summed for another node",
            &[edit(GATEWAY, ACQUIRE, 1, Change::Replace(".acquire.", ".relaxed."))],
            &["`relay_results`", GIVE_BACK, GATEWAY],
        )),
    ]
}
