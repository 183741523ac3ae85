//! Whether CTAs that wait for each other can all run.
//!
//! A CTA that has begun keeps its place until it ends, and one that waits for another ends only
//! after that. If waiting CTAs can occupy the SMs so that what they wait for finds no place, the
//! launch may never end. No order in which the hardware places CTAs is promised (CUDA C++
//! Programming Guide, 2.2, thread hierarchy: blocks are executed in any order), so every order
//! counts.
//!
//! For each role `P` that others wait for: the roles that wait for it, directly or over others,
//! are placed so as to leave no room for one more cluster of `P` with as few CTAs as possible. If
//! there are enough of them, the roles are refused. Roles that do not wait for `P` end sooner or
//! later and make room. Not seen: other kernels on the same GPU.

use moec_ir::plan::Geometry;
use moec_ir::{Diagnostic, KernelSpec, Plan, Target};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Shared memory of an SM that each CTA has beside its own, in bytes, and that an SM has beyond
/// what one CTA may use: 228 KiB of 227 (CUDA C++ Programming Guide, compute capability 9.0).
const RESERVED_SHARED: u32 = 1024;
/// Threads and CTAs of an SM, and threads of a CTA, at most (same, table of compute
/// capabilities).
const MOST_THREADS: u32 = 2048;
const MOST_CTAS: u32 = 32;
const MOST_CTA_THREADS: u32 = 1024;
/// Threads of a warp, registers that a warp is given at a time, and those of a thread at most
/// (same, and CUDA occupancy calculator, 9.0).
const WARP: u32 = 32;
const REGISTER_UNIT: u32 = 256;
const MOST_REGISTERS: u32 = 255;
/// CTAs of a cluster that every GPU of the target's kind can place (same, thread block clusters).
const MOST_CLUSTER: u32 = 8;
/// Groups of SMs (GPCs) at most, within one of which a cluster lies; each has an even number of
/// SMs (NVIDIA H100 whitepaper: 8 GPCs of up to 9 TPCs of 2 SMs).
const GPCS: u32 = 8;
/// Combinations that are tried before a plan is taken to be unsafe.
const MOST_TRIES: u32 = 100_000;

/// CTAs that do the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// How many there are.
    pub ctas: u32,
    /// Shared memory of one, in bytes.
    pub shared: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Threads of one.
    pub threads: u32,
    /// CTAs of a cluster; 1 without.
    pub cluster: u32,
    /// The roles it waits for before it can end: places in the list.
    pub waits_for: Vec<usize>,
}

/// Where all CTAs have a place whatever the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    /// CTAs of each role that an SM has room for where it holds nothing else.
    pub per_sm: Vec<u32>,
}

/// What an SM has, or what some CTAs take of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    shared: u32,
    registers: u32,
    threads: u32,
    ctas: u32,
}

impl Room {
    fn of(target: &Target) -> Self {
        Self {
            shared: target.shared_per_cta + RESERVED_SHARED,
            registers: target.registers_per_sm,
            threads: MOST_THREADS,
            ctas: MOST_CTAS,
        }
    }

    fn taken(role: &Role) -> Self {
        let warps = role.threads.div_ceil(WARP);
        let registers = (role.registers * WARP).next_multiple_of(REGISTER_UNIT);
        Self {
            shared: role.shared + RESERVED_SHARED,
            registers: warps * registers,
            threads: warps * WARP,
            ctas: 1,
        }
    }

    /// What is left after one more; `None` where it does not fit.
    fn less(self, taken: Self) -> Option<Self> {
        Some(Self {
            shared: self.shared.checked_sub(taken.shared)?,
            registers: self.registers.checked_sub(taken.registers)?,
            threads: self.threads.checked_sub(taken.threads)?,
            ctas: self.ctas.checked_sub(taken.ctas)?,
        })
    }

    /// How many fit.
    fn fits(self, taken: Self) -> u32 {
        std::iter::successors(self.less(taken), |left| left.less(taken)).count() as u32
    }
}

/// Checks that no order of placement lets a CTA wait for one that finds no place.
///
/// # Errors
/// E0807 where a role is not one that the target can run at all; E0806 where a waiting CTA could
/// keep what it waits for from its place, with the schedule in which that happens.
pub fn check(roles: &[Role], target: &Target) -> Result<Residency, Vec<Diagnostic>> {
    let room = Room::of(target);
    let faults: Vec<Diagnostic> =
        roles.iter().filter_map(|role| impossible(role, roles.len(), target)).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let waiting = waiting(roles);
    let stuck = (0..roles.len()).filter_map(|producer| {
        let blocked = blocked(roles, producer, &waiting[producer], target)?;
        Some(deadlock(roles, producer, &blocked, target))
    });
    let mistakes: Vec<Diagnostic> = stuck.collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let per_sm = roles.iter().map(|role| room.fits(Room::taken(role))).collect();
    Ok(Residency { per_sm })
}

/// Checks the launches of spread experts in a plan, once code generation has said how they are
/// launched. Not seen: launches that exchange routes, whose CTAs wait for those of other ranks
/// ([`KernelSpec::ExchangeRoutes`]); how many of them are resident is known only to ptxas.
///
/// # Errors
/// As of [`check`], for the plan's target.
pub fn check_plan(plan: &Plan) -> Result<(), Vec<Diagnostic>> {
    let launches = plan.kernels.iter().filter_map(|kernel| {
        let geometry = kernel.geometry.as_ref()?;
        let roles = roles(&kernel.spec, geometry, &plan.target)?;
        check(&roles, &plan.target).err()
    });
    let mistakes: Vec<Diagnostic> = launches.flatten().collect();
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

/// The roles of a launch whose CTAs wait for each other; `None` of others.
fn roles(spec: &KernelSpec, geometry: &Geometry, target: &Target) -> Option<Vec<Role>> {
    let threads = geometry.block.iter().product::<u32>().max(1);
    // Not known before ptxas, which gives a thread as many at most.
    let registers = target.registers_per_sm / threads.next_multiple_of(WARP);
    let role = |name: &str, ctas: u32, waits_for: &[usize]| Role {
        name: name.into(),
        ctas,
        shared: geometry.shared_bytes,
        registers: (registers / 8 * 8).min(MOST_REGISTERS),
        threads,
        cluster: geometry.cluster,
        waits_for: waits_for.to_vec(),
    };
    match spec {
        // Those that bring rows and results wait for those that multiply, and the other way round.
        KernelSpec::SpreadExperts(experts) => {
            let split = experts.split;
            Some(vec![role("comm", split.comm, &[1]), role("compute", split.compute, &[0])])
        }
        _ => None,
    }
}

/// E0807.
fn impossible(role: &Role, n_roles: usize, target: &Target) -> Option<Diagnostic> {
    let fault = |what: String| {
        Some(
            Diagnostic::error(
                "E0807",
                format!("`{}` cannot run on {}: {what}", role.name, target.name),
            )
            .help("give the role what an SM has, or fewer CTAs, threads or registers"),
        )
    };
    let most_clusters = u64::from(target.sms) * u64::from(MOST_CTAS);
    match role {
        _ if role.ctas == 0 || role.threads == 0 || role.registers == 0 || role.cluster == 0 => {
            fault("it has no CTAs, threads, registers or cluster".into())
        }
        _ if role.threads > MOST_CTA_THREADS => {
            fault(format!("a CTA has at most {MOST_CTA_THREADS} threads, not {}", role.threads))
        }
        _ if role.registers > MOST_REGISTERS => fault(format!(
            "a thread has at most {MOST_REGISTERS} registers, not {}",
            role.registers
        )),
        _ if role.shared > target.shared_per_cta => fault(format!(
            "a CTA has at most {} bytes of shared memory, not {}",
            target.shared_per_cta, role.shared
        )),
        _ if role.cluster > MOST_CLUSTER => {
            fault(format!("a cluster has at most {MOST_CLUSTER} CTAs, not {}", role.cluster))
        }
        _ if !role.ctas.is_multiple_of(role.cluster) => {
            fault(format!("{} CTAs do not fill clusters of {}", role.ctas, role.cluster))
        }
        _ if u64::from(role.ctas) > most_clusters * 1024 => {
            fault(format!("{} CTAs are more than any launch has work for", role.ctas))
        }
        _ if role.waits_for.iter().any(|at| *at >= n_roles) => {
            fault("it waits for a role that does not exist".into())
        }
        _ if Room::of(target).less(Room::taken(role)).is_none() => {
            let taken = Room::taken(role);
            fault(format!(
                "{} registers of a CTA exceed the {} of an SM",
                taken.registers, target.registers_per_sm
            ))
        }
        _ => None,
    }
}

/// For each role those that wait for it, directly or over others.
fn waiting(roles: &[Role]) -> Vec<Vec<usize>> {
    (0..roles.len())
        .map(|producer| {
            let mut found = vec![false; roles.len()];
            let mut open = vec![producer];
            while let Some(at) = open.pop() {
                for (by, role) in roles.iter().enumerate() {
                    if role.waits_for.contains(&at) && !found[by] {
                        found[by] = true;
                        open.push(by);
                    }
                }
            }
            (0..roles.len()).filter(|at| found[*at]).collect()
        })
        .collect()
}

/// CTAs of each role on an SM, and on how many SMs.
type Pattern = (Vec<u32>, u32);

/// A placement of waiting CTAs that leaves no room for one more cluster of a producer.
fn blocked(
    roles: &[Role],
    producer: usize,
    waiting: &[usize],
    target: &Target,
) -> Option<Vec<Pattern>> {
    if waiting.is_empty() {
        return None;
    }
    let role = &roles[producer];
    // The producer's own CTAs wait too where the waits go in a circle; all but one cluster.
    let counts: Vec<u32> = (0..roles.len())
        .map(|at| match at {
            _ if !waiting.contains(&at) => 0,
            _ if at == producer => role.ctas - role.cluster,
            _ => roles[at].ctas,
        })
        .collect();
    let patterns = patterns(roles, producer, &counts, target);
    // SMs of each group that may stay free without one cluster fitting. Clusters of even size alone
    // leave an even number.
    let alike = waiting.iter().all(|at| roles[*at].cluster == role.cluster);
    let spare = match role.cluster {
        1 => 0,
        n if alike && n % 2 == 0 => n - 2,
        n => n - 1,
    };
    let needed = target.sms.saturating_sub(GPCS * spare);
    let mut search = Search { patterns: &patterns, tries: 0 };
    search.fill(&counts, needed, 0)
}

/// The least combinations of CTAs on an SM that leave no room for one of the producer.
fn patterns(roles: &[Role], producer: usize, counts: &[u32], target: &Target) -> Vec<Vec<u32>> {
    let wanted = Room::taken(&roles[producer]);
    let mut found: Vec<Vec<u32>> = vec![];
    let mut open = vec![(vec![0; roles.len()], Room::of(target), 0)];
    while let Some((pattern, room, from)) = open.pop() {
        if room.less(wanted).is_none() {
            found.push(pattern);
            continue;
        }
        for at in from..roles.len() {
            if pattern[at] < counts[at]
                && let Some(left) = room.less(Room::taken(&roles[at]))
            {
                let mut more = pattern.clone();
                more[at] += 1;
                open.push((more, left, at));
            }
        }
    }
    let within = |a: &[u32], b: &[u32]| a.iter().zip(b).all(|(a, b)| a <= b);
    let least = found.iter().filter(|p| found.iter().all(|q| *q == **p || !within(q, p)));
    let mut least: Vec<Vec<u32>> = least.cloned().collect();
    least.sort_by_key(|p| (p.iter().sum::<u32>(), p.clone()));
    least.dedup();
    least
}

/// Looks for SMs enough that can be blocked.
struct Search<'a> {
    patterns: &'a [Vec<u32>],
    tries: u32,
}

impl Search<'_> {
    /// Blocks so many SMs with what is left of each role, by patterns from one on; `None` where
    /// there are too few CTAs. Patterns are in order of their size.
    fn fill(&mut self, left: &[u32], needed: u32, from: usize) -> Option<Vec<Pattern>> {
        if needed == 0 {
            return Some(vec![]);
        }
        let pattern = self.patterns.get(from)?;
        let size = pattern.iter().sum::<u32>().max(1);
        if u64::from(needed) * u64::from(size) > left.iter().map(|n| u64::from(*n)).sum() {
            return None;
        }
        self.tries += 1;
        let most = pattern.iter().zip(left).filter(|(p, _)| **p > 0).map(|(p, left)| left / p);
        let most = most.min().unwrap_or(0).min(needed);
        if self.tries > MOST_TRIES {
            return Some(vec![(pattern.clone(), needed)]);
        }
        (0..=most).rev().find_map(|n| {
            let left: Vec<u32> = left.iter().zip(pattern).map(|(l, p)| l - n * p).collect();
            let mut rest = self.fill(&left, needed - n, from + 1)?;
            if n > 0 {
                rest.insert(0, (pattern.clone(), n));
            }
            Some(rest)
        })
    }
}

/// E0806, with the schedule.
fn deadlock(roles: &[Role], producer: usize, blocked: &[Pattern], target: &Target) -> Diagnostic {
    let role = &roles[producer];
    let holds = |at: usize| blocked.iter().map(|(pattern, n)| pattern[at] * n).sum::<u32>();
    let holders: Vec<String> = (0..roles.len())
        .filter(|at| holds(*at) > 0)
        .map(|at| format!("`{}`", roles[at].name))
        .collect();
    let others = if holds(producer) > 0 { "others of " } else { "" };
    let message = format!(
        "on {}, CTAs of {} could keep {others}`{}`, for which they wait, from becoming resident",
        target.name,
        holders.join(" and "),
        role.name
    );
    let circle = waiting(roles)[producer].contains(&producer);
    let mut text = match fitting(roles, producer, target).filter(|_| circle) {
        Some(n) => format!("launch at most {n} CTAs in all that wait for each other"),
        None => "launch fewer CTAs that wait, so that all find a place".into(),
    };
    text += "; nothing would end this placement:\n";
    let mut first = 0;
    for (pattern, n) in blocked {
        let end = first + n;
        let on = (0..roles.len()).filter(|at| pattern[*at] > 0).map(|at| {
            let waits: Vec<&str> =
                roles[at].waits_for.iter().map(|w| roles[*w].name.as_str()).collect();
            format!("{} x {}, waits for {}", pattern[at], roles[at].name, waits.join(" and "))
        });
        let on: Vec<String> = on.collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  SM {first:>3} to {:>3}: {}", end - 1, on.join("; "));
        first = end;
    }
    if first < target.sms {
        let _ = writeln!(
            text,
            "  SM {first:>3} to {:>3}: no room for a cluster of {}",
            target.sms - 1,
            role.cluster
        );
    }
    let (left, all) = (role.ctas - holds(producer), role.ctas);
    let _ = write!(text, "  no place: {left} of {all} x {}", role.name);
    Diagnostic::error("E0806", message).help(text)
}

/// How many CTAs of the size of the largest that takes part have a place at once.
fn fitting(roles: &[Role], producer: usize, target: &Target) -> Option<u32> {
    let waiting = &waiting(roles)[producer];
    let parts = waiting.iter().copied().chain([producer]);
    let room = Room::of(target);
    let each = parts.map(|at| room.fits(Room::taken(&roles[at]))).min()?;
    Some(each * target.sms)
}
