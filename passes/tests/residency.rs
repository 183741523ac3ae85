//! Which launches of CTAs that wait for each other are refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use moec_ir::{Diagnostic, Target};
use moec_passes::partition::residency::{Role, check};

fn on(name: &str) -> Target {
    Target::named(name).unwrap()
}

/// CTAs that fill an SM each: 384 threads of 168 registers, 200 KiB.
fn role(name: &str, ctas: u32, waits_for: &[usize]) -> Role {
    Role {
        name: name.into(),
        ctas,
        shared: 200 << 10,
        registers: 168,
        threads: 384,
        cluster: 1,
        waits_for: waits_for.to_vec(),
    }
}

/// One launch whose CTAs communicate or compute and wait for each other.
fn persistent(comm: u32, compute: u32) -> Vec<Role> {
    vec![role("comm", comm, &[1]), role("compute", compute, &[0])]
}

fn codes(found: Result<impl std::fmt::Debug, Vec<Diagnostic>>) -> Vec<&'static str> {
    found.unwrap_err().iter().map(|d| d.code).collect()
}

#[test]
fn as_many_ctas_as_sms_may_wait_for_each_other() {
    let residency = check(&persistent(20, 112), &on("h800")).unwrap();
    assert_eq!(residency.per_sm, [1, 1]);
    check(&persistent(14, 64), &on("h20")).unwrap();
}

#[test]
fn one_more_than_there_are_sms_is_refused() {
    assert_eq!(codes(check(&persistent(21, 112), &on("h800"))), ["E0806", "E0806"]);
}

#[test]
fn a_plan_for_132_sms_is_refused_on_the_78_of_an_h20() {
    let found = check(&persistent(20, 112), &on("h20")).unwrap_err();
    let page = include_str!("../../docs/errors/E0806.md");
    let drawn = found[0].render("plan", "", false);
    assert!(page.contains(drawn.trim_end()), "the page should show:\n{drawn}");
    let help = found[0].help.as_ref().unwrap();
    assert!(help.contains("at most 78 CTAs"), "{help}");
}

#[test]
fn producers_that_wait_for_nobody_may_be_more_than_there_is_room_for() {
    // Consumers leave no room for producers where they are as many as the SMs.
    let chain = |consumers| vec![role("send", 1000, &[]), role("work", consumers, &[0])];
    check(&chain(131), &on("h800")).unwrap();
    assert_eq!(codes(check(&chain(132), &on("h800"))), ["E0806"]);
}

#[test]
fn a_chain_of_waits_is_followed_to_its_end() {
    let three = |first: u32| {
        vec![role("load", first, &[]), role("multiply", 60, &[0]), role("store", 72, &[1])]
    };
    // 132 of the last two keep the first out, 72 of the last alone nobody.
    let found = check(&three(10), &on("h800")).unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("`load`"), "{}", found[0].message);
    let mut fewer = three(10);
    fewer[1].ctas = 59;
    check(&fewer, &on("h800")).unwrap();
}

#[test]
fn small_ctas_share_an_sm() {
    let small = |ctas, registers| {
        let mut roles = persistent(ctas, ctas);
        for role in &mut roles {
            (role.shared, role.registers, role.threads) = (50 << 10, registers, 256);
        }
        roles
    };
    // Four by shared memory: 4 x 51 of 228 KiB.
    assert_eq!(check(&small(264, 64), &on("h800")).unwrap().per_sm, [4, 4]);
    assert_eq!(codes(check(&small(265, 64), &on("h800"))), ["E0806", "E0806"]);
    // Two by registers: 128 x 256 of 65,536.
    assert_eq!(check(&small(132, 128), &on("h800")).unwrap().per_sm, [2, 2]);
    assert_eq!(codes(check(&small(133, 128), &on("h800"))), ["E0806", "E0806"]);
    // A warp's registers come in units of 256: 129 are 136.
    assert_eq!(check(&small(66, 129), &on("h800")).unwrap().per_sm, [1, 1]);
}

/// Small CTAs of one role can break up the room of SMs so that a large one of another fits none.
#[test]
fn small_ctas_spread_out_can_keep_a_large_one_out() {
    let roles = |small: u32| {
        let mut comm = role("comm", small, &[1]);
        (comm.shared, comm.threads, comm.registers) = (60 << 10, 64, 64);
        vec![comm, role("compute", 33, &[0])]
    };
    // 99 SMs would be left, but one small CTA on each of 100 leaves 32 for 33.
    check(&roles(99), &on("h800")).unwrap();
    let found = check(&roles(100), &on("h800")).unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].message.contains("could keep others of `compute`"), "{}", found[0].message);
}

#[test]
fn clusters_need_their_sms_in_one_group() {
    let clusters = |ctas: u32, cluster: u32| {
        let mut roles = persistent(ctas, ctas);
        roles.iter_mut().for_each(|role| role.cluster = cluster);
        roles
    };
    // Groups have even numbers of SMs.
    check(&clusters(66, 2), &on("h800")).unwrap();
    // Clusters of four may lose two SMs in each of eight groups.
    assert_eq!(codes(check(&clusters(64, 4), &on("h800"))), ["E0806", "E0806"]);
    check(&clusters(56, 4), &on("h800")).unwrap();
}

#[test]
fn roles_that_no_sm_can_run_are_refused() {
    let with = |change: &dyn Fn(&mut Role)| {
        let mut bad = role("bad", 4, &[]);
        change(&mut bad);
        let found = check(&[bad], &on("h800")).unwrap_err();
        assert_eq!(found[0].code, "E0807");
        found[0].message.clone()
    };
    assert!(with(&|r| r.threads = 2048).contains("at most 1024 threads, not 2048"));
    assert!(with(&|r| r.shared = 232_449).contains("232448 bytes of shared memory, not 232449"));
    assert!(with(&|r| r.registers = 256).contains("at most 255 registers"));
    assert!(with(&|r| r.threads = 1024).contains("exceed the 65536 of an SM"));
    assert!(with(&|r| r.cluster = 3).contains("do not fill clusters of 3"));
    assert!(with(&|r| r.cluster = 16).contains("at most 8 CTAs"));
    assert!(with(&|r| r.ctas = 0).contains("no CTAs"));
    assert!(with(&|r| r.waits_for = vec![7]).contains("does not exist"));
}

#[test]
fn nobody_waits_and_nothing_is_refused() {
    check(&[], &on("h800")).unwrap();
    check(&[role("a", 10_000, &[]), role("b", 10_000, &[])], &on("h20")).unwrap();
}

/// What is accepted runs in every order: CTAs are placed at random, and those whose producers are
/// resident or done end.
#[test]
fn accepted_roles_end_in_random_orders() {
    let target = Target { sms: 6, ..on("h800") };
    let mut state = 1_u64;
    let mut random = |n: u32| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % u64::from(n.max(1))) as u32
    };
    let (mut accepted, mut stuck) = (0, 0);
    for _ in 0..3000 {
        let n = 1 + random(3) as usize;
        let roles: Vec<Role> = (0..n)
            .map(|at| Role {
                shared: [30 << 10, 70 << 10, 110 << 10, 200 << 10][random(4) as usize],
                registers: [32, 64, 128][random(3) as usize],
                threads: [128, 256, 384][random(3) as usize],
                waits_for: (0..n).filter(|to| *to != at && random(2) == 0).collect(),
                ..role(&format!("r{at}"), 1 + random(9), &[])
            })
            .collect();
        let sound = check(&roles, &target).is_ok();
        accepted += u32::from(sound);
        let ends = runs(&roles, &target, &mut random);
        assert!(ends || !sound, "accepted, but it hangs: {roles:?}");
        stuck += u32::from(!ends);
    }
    assert!(accepted > 500 && stuck > 100, "{accepted} accepted, {stuck} stuck");
}

/// Places CTAs in a random order wherever they fit first, at a random SM; whether all end.
fn runs(roles: &[Role], target: &Target, random: &mut impl FnMut(u32) -> u32) -> bool {
    let mut waiting: Vec<usize> =
        roles.iter().enumerate().flat_map(|(at, r)| vec![at; r.ctas as usize]).collect();
    let mut resident: Vec<(usize, usize)> = vec![];
    let registers = |r: &Role| r.threads * r.registers;
    let fits = |resident: &[(usize, usize)], at: usize, sm: usize| {
        let on = || resident.iter().filter(|(_, s)| *s == sm).map(|(r, _)| &roles[*r]);
        let all = || on().chain([&roles[at]]);
        all().map(|r| r.shared + 1024).sum::<u32>() <= target.shared_per_cta + 1024
            && all().map(registers).sum::<u32>() <= target.registers_per_sm
            && all().map(|r| r.threads).sum::<u32>() <= 2048
            && all().count() <= 32
    };
    loop {
        let mut moved = false;
        let mut order: Vec<usize> = (0..waiting.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, random(i as u32 + 1) as usize);
        }
        let mut placed = vec![];
        for index in order {
            let free: Vec<usize> = (0..target.sms as usize)
                .filter(|sm| fits(&resident, waiting[index], *sm))
                .collect();
            if !free.is_empty() {
                resident.push((waiting[index], free[random(free.len() as u32) as usize]));
                placed.push(index);
                moved = true;
            }
        }
        placed.sort_unstable();
        placed.iter().rev().for_each(|at| {
            waiting.remove(*at);
        });
        // A role's work is done once none of its CTAs waits for a place.
        let open: Vec<bool> = (0..roles.len()).map(|r| waiting.contains(&r)).collect();
        let before = resident.len();
        resident.retain(|(r, _)| {
            let mut seen = vec![false; roles.len()];
            let mut stack = roles[*r].waits_for.clone();
            while let Some(at) = stack.pop() {
                if !seen[at] {
                    seen[at] = true;
                    stack.extend(&roles[at].waits_for);
                }
            }
            (0..roles.len()).any(|at| seen[at] && open[at])
        });
        moved |= resident.len() < before;
        if waiting.is_empty() {
            return true;
        }
        if !moved {
            return false;
        }
    }
}
