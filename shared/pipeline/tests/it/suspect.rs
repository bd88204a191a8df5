use std::collections::BTreeSet;

use crate::harness::{Process, broker, job, vhost};

#[tokio::test]
async fn a_message_that_kills_its_worker_takes_none_of_fifty_good_ones_with_it() {
    let vhost = vhost().await;
    let publishing = broker(&vhost, "noop-worker").await;
    let publisher = publishing.publisher();
    let kill = job("kill");
    let mut good = BTreeSet::new();
    for place in 0..51 {
        let job = if place == 20 { kill.clone() } else { job("sleep 5") };
        publisher.publish_job(&job).await.unwrap();
        if place != 20 {
            good.insert(job.id.to_string());
        }
    }
    let mut succeeded = vhost.listen("postroom.events", "job.succeeded").await;
    let mut done = BTreeSet::new();
    let mut lives = 0;
    // One at a time, and 16 at hand.
    while done.len() < 50 || !at_rest(&vhost).await {
        let mut process = Process::start(&vhost, 1);
        let mut stopping = false;
        lives += 1;
        assert!(lives <= 20, "{} done, and the message is not dead, or something is left", done.len());
        loop {
            tokio::select! {
                (_, event) = succeeded.next_json() => {
                    done.insert(event["job"]["id"].as_str().unwrap().to_owned());
                }
                () = vhost.wait("all at rest", || at_rest(&vhost)), if !stopping && done.len() == 50 => {
                    // What it has told of it may not have acked yet.
                    process.signal("-TERM");
                    stopping = true;
                }
                _ = process.ended() => break,
            }
        }
    }
    assert_eq!(done, good);
    let dead = vhost.take("noop.dead").await;
    assert_eq!(dead.properties.message_id().as_ref().unwrap().as_str(), kill.id.to_string());
    publishing.close().await;
    let kept = crate::faults::tracked(&vhost).await;
    let reason = kept.iter().find(|note| note.contains("delivery_limit")).expect("the reason is told");
    assert!(reason.contains(&kill.id.to_string()) && reason.contains("noop.suspect"), "{reason}");
    assert!(!kept.iter().any(|note| note.starts_with("job.dead")));
    vhost.finish(&[]).await;
}

/// Whether the one message is dead, and nobody has given back another.
async fn at_rest(vhost: &backing::Vhost) -> bool {
    let (dead, normal, suspect) =
        tokio::join!(vhost.ready("noop.dead"), vhost.ready("noop.normal"), vhost.ready("noop.suspect"));
    (dead, normal, suspect) == (Some(1), Some(0), Some(0))
}
