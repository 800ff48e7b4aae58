use tokio::io::AsyncReadExt;

use super::*;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(test);
}

#[test]
fn everything_comes_out_in_order() {
    run(async {
        let outbox = Arc::new(Outbox::default());
        let (near, mut far) = tokio::io::duplex(7);
        let writer = outbox.clone();
        let task = tokio::spawn(async move { writer.write_to(Box::new(near)).await });
        let mut expected = Vec::<u8>::new();
        for i in 0..200_u8 {
            let chunk = vec![i; usize::from(i % 5) + 1];
            expected.extend(&chunk);
            outbox.push(Bytes::from(chunk));
            if i % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        outbox.close();
        let mut got = Vec::new();
        AsyncReadExt::read_to_end(&mut far, &mut got).await.unwrap();
        assert_eq!(got, expected);
        task.await.unwrap().unwrap();
        assert_eq!(outbox.bytes_waiting(), 0);
    });
}

#[test]
fn a_broken_connection_closes_it_and_frees_whoever_waits() {
    run(async {
        let outbox = Arc::new(Outbox::default());
        let (near, far) = tokio::io::duplex(7);
        outbox.push(Bytes::from(vec![0; 100]));
        let (writer, waiter) = (outbox.clone(), outbox.clone());
        let task = tokio::spawn(async move { writer.write_to(Box::new(near)).await });
        let wait = tokio::spawn(async move { waiter.below(1).await });
        tokio::task::yield_now().await;
        drop(far);
        assert!(task.await.unwrap().is_err());
        wait.await.unwrap();
        outbox.push(Bytes::from_static(b"late"));
        assert!(outbox.is_closed());
    });
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_given_up_and_who_reads_slowly_is_not() {
    let ledger = Arc::new(Ledger::new(1 << 30));
    let kind = Kind::ClientAnswers;
    let mut ends = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..3 {
        let outbox = Arc::new(Outbox::counted(ledger.clone(), kind));
        let (near, far) = tokio::io::duplex(16 * 1024);
        outbox.push(Bytes::from(vec![7; 2_000_000]));
        ends.push(tokio::spawn(async move {
            outbox.write_to(Box::new(near)).await
        }));
        readers.push(far);
    }
    assert_eq!(ledger.held(kind), 6_000_000);
    let mut buffer = vec![0; 7 * 1024];
    for _ in 0..100 {
        let _ended = AsyncReadExt::read(&mut readers[1], &mut buffer[..1]).await;
        AsyncReadExt::read_exact(&mut readers[2], &mut buffer)
            .await
            .unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let [silent, trickling, slow] = ends.try_into().unwrap();
    for end in [silent, trickling] {
        let error = end.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
    assert!(!slow.is_finished());
    let left = ledger.held(kind);
    assert!((1_000_000..1_400_000).contains(&left), "{left}");
    drop(readers);
    assert!(slow.await.unwrap().is_err());
    assert_eq!(ledger.held(kind), 0);
}

#[tokio::test]
async fn reads_are_begun_as_far_as_their_answers_fit() {
    const MAX: usize = 1 << 20;
    let outbox = Outbox::default();
    // Nothing is known of the answers.
    assert_eq!(outbox.begin_reads(1000, MAX), READS_FIRST);
    assert_eq!(outbox.begin_reads(1000, MAX), 0);
    outbox.end_reads(READS_FIRST, 100);
    assert_eq!(outbox.begin_reads(1000, MAX), 256);
    outbox.end_reads(256, 500_000);
    outbox.push(Bytes::from(vec![0; 1000]));
    assert_eq!(outbox.begin_reads(1, MAX), 1);
    assert_eq!(outbox.begin_reads(1000, MAX), 1);
    outbox.end_reads(2, 9_000_000);
    // One of any size.
    outbox.room_for_reads(MAX).await;
    assert_eq!(outbox.begin_reads(1000, MAX), 1);
    outbox.end_reads(1, 9_000_000);
    outbox.push(Bytes::from(vec![0; 9_000_000]));
    assert_eq!(outbox.begin_reads(1000, MAX), 0);
    outbox.taken().await.unwrap();
    assert_eq!(outbox.begin_reads(1000, MAX), 1);
}
