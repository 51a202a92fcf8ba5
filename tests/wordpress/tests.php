<?php
/**
 * Tests of the plugin without WordPress: php tests/wordpress/tests.php
 *
 * Each test begins with a new world (stand-ins.php). Hooks get the objects that BuddyBoss Platform 3.4.1
 * passed on a real site (recorded/hooks.json).
 */

require __DIR__ . '/stand-ins.php';

$passed = 0;
$failed = 0;

function test( $name, $code ) {
	global $passed, $failed;
	World::reset();
	try {
		$code();
		++$passed;
	} catch ( \Throwable $error ) {
		++$failed;
		echo "FAILED: $name\n  ", $error->getMessage(), "\n  ", basename( $error->getFile() ), ':', $error->getLine(), "\n";
	}
}

function same( $expected, $actual, $what = '' ) {
	if ( $expected !== $actual ) {
		throw new Exception( trim( "$what: expected " . json_encode( $expected ) . ', got ' . json_encode( $actual ), ': ' ) );
	}
}

function truth( $value, $what ) {
	same( true, $value, $what );
}

/** Starts the parts that act on hooks. */
function start() {
	$queue = new Buddyline_Queue();
	( new Buddyline_Hooks( $queue ) )->register();
	( new Buddyline_Sender( $queue ) )->register();
	$rest = new Buddyline_Rest( $queue );
	$rest->register();
	$rest->register_routes();
	( new Buddyline_Call_Events() )->register();
	return $queue;
}

/** Ends the PHP request, and returns the events that were sent. */
function sent() {
	$before = count( World::$posts );
	do_action( 'shutdown' );
	$events = array();
	foreach ( array_slice( World::$posts, $before ) as $post ) {
		$events = array_merge( $events, $post['body']['events'] );
	}
	return $events;
}

function revive( $value ) {
	if ( ! is_array( $value ) ) {
		return $value;
	}
	if ( ! isset( $value['@class'] ) ) {
		return array_map( 'revive', $value );
	}
	unset( $value['@class'] );
	return (object) array_map( 'revive', $value );
}

function recorded( $hook ) {
	static $all = null;
	if ( null === $all ) {
		$all = json_decode( file_get_contents( __DIR__ . '/recorded/hooks.json' ), true );
	}
	$found = array();
	foreach ( $all as $row ) {
		if ( $row['hook'] === $hook ) {
			$found[] = array_map( 'revive', $row['args'] );
		}
	}
	truth( count( $found ) > 0, "$hook was recorded" );
	return $found;
}

function replay( $hook, $number = 0 ) {
	$calls = recorded( $hook );
	do_action( $hook, ...$calls[ $number ] );
	return $calls[ $number ];
}

/** A signed request of the server. */
function request( $body, $options = array() ) {
	if ( is_array( $body ) ) {
		$body += array( 'id' => Buddyline_Signature::new_id() );
		$body  = json_encode( $body );
	}
	$secret = isset( $options['secret'] ) ? $options['secret'] : World::$options['buddyline_secret'];
	$key    = Buddyline_Signature::derive_key( $secret, isset( $options['key'] ) ? $options['key'] : 'requests' );
	$header = Buddyline_Signature::sign( array( $key ), $body, isset( $options['time'] ) ? $options['time'] : time() );
	return new WP_REST_Request( $body, array( 'buddyline_signature' => array_key_exists( 'header', $options ) ? $options['header'] : $header ) );
}

/** Calls a route as WordPress does: permission first, and once more for the Allow header. */
function call( $route, $request = null ) {
	$route  = World::$routes[ $route ];
	$result = may_call( $route, $request );
	if ( true === $result ) {
		$result = call_user_func( $route['callback'], $request );
	}
	$result = apply_filters( 'rest_request_after_callbacks', $result );
	may_call( $route, $request );
	return $result;
}

function may_call( $route, $request ) {
	return '__return_true' === $route['permission_callback'] ? true : call_user_func( $route['permission_callback'], $request );
}

function state( $name ) {
	return isset( World::$options[ "buddyline_$name" ] ) ? World::$options[ "buddyline_$name" ] : null;
}

function quiet( $code ) {
	$before = ini_set( 'error_log', '/dev/null' );
	try {
		return $code();
	} finally {
		ini_set( 'error_log', (string) $before );
	}
}

// Signatures.

$vectors = json_decode( file_get_contents( __DIR__ . '/../vectors/signatures.json' ), true );

foreach ( $vectors['derived'] as $purpose => $hex ) {
	test(
		"vector: key for $purpose",
		function () use ( $vectors, $purpose, $hex ) {
			same( $hex, bin2hex( Buddyline_Signature::derive_key( $vectors['secret'], $purpose ) ) );
			same( $hex, bin2hex( Buddyline_Signature::derive_key( " {$vectors['secret']}\n", $purpose ) ), 'white space around' );
		}
	);
}
foreach ( $vectors['signatures'] as $case ) {
	test(
		'vector: signature: ' . $case['why'],
		function () use ( $vectors, $case ) {
			$key    = Buddyline_Signature::derive_key( $vectors['secret'], $case['key'] );
			$result = Buddyline_Signature::verify( array( $key ), $case['header'], $case['body'], $case['now'] );
			same( $case['valid'], '' === $result['reason'] );
		}
	);
}
foreach ( $vectors['tickets'] as $case ) {
	test(
		'vector: ticket: ' . $case['why'],
		function () use ( $vectors, $case ) {
			$made = Buddyline_Ticket::encode( $case['claims'], $vectors['secret'] );
			if ( $case['valid'] ) {
				same( $case['token'], $made );
			} elseif ( $case['claims']['iss'] === $vectors['site'] && 'buddyline' === $case['claims']['aud'] && '3' === $case['claims']['sub'] && 'expired' !== $case['why'] ) {
				truth( $case['token'] !== $made, 'differs from the ticket that the plugin makes' );
			}
		}
	);
}

test(
	'every verification tells its reason',
	function () {
		$key = Buddyline_Signature::derive_key( str_repeat( 'k', 64 ), 'events' );
		same( 'clock', Buddyline_Signature::verify( array( $key ), Buddyline_Signature::sign( array( $key ), 'x', 1000 ), 'x', 1301 )['reason'] );
		same( 'secret', Buddyline_Signature::verify( array( $key ), Buddyline_Signature::sign( array( 'other' ), 'x', 1000 ), 'x', 1000 )['reason'] );
		same( 'malformed', Buddyline_Signature::verify( array( $key ), null, 'x', 1000 )['reason'] );
		same( 'malformed', Buddyline_Signature::verify( array( $key ), str_repeat( 'v1=a,', 1000 ), 'x', 1000 )['reason'] );
		same( 'secret', Buddyline_Signature::verify( array(), Buddyline_Signature::sign( array( $key ), 'x', 1000 ), 'x', 1000 )['reason'], 'no key' );
	}
);

// Hooks.

test(
	'message: reply from the web page, every field',
	function () {
		start();
		World::$meta[22]         = array();
		World::$tables['blocks'] = array( array( 3, 2 ), array( 9, 2 ) );
		replay( 'messages_message_sent', 0 );
		$events = sent();
		same( 1, count( $events ) );
		same(
			array(
				'type'       => 'message',
				'threadId'   => 1,
				'messageId'  => 22,
				'senderId'   => 2,
				'recipients' => array( 3 ),
				'sentAt'     => '2026-12-01T07:19:44Z',
				'text'       => 'hello <b>from</b> the web page &amp; more',
				'html'       => 'hello <b>from</b> the web page &amp; more',
				'hiddenFrom' => array( 3 ),
				'silent'     => false,
				'subject'    => 'Re: No Subject',
			),
			$events[0]
		);
	}
);

test(
	'message: recipients of new threads are a list, of replies keyed by user',
	function () {
		start();
		replay( 'messages_message_sent', 2 );
		same( array( 6, 9 ), sent()[0]['recipients'] );
	}
);

test(
	'message: archived recipients are kept although BuddyBoss removes them at 10',
	function () {
		start();
		add_action(
			'messages_message_sent',
			function ( $message ) {
				$message->recipients = array();
			}
		);
		replay( 'messages_message_sent', 0 );
		same( array( 3 ), sent()[0]['recipients'] );
	}
);

test(
	'message: rendered when it is sent, by the site\'s filter',
	function () {
		start();
		add_filter(
			'bp_get_the_thread_message_content',
			function ( $text, $id ) {
				return "<p>$text</p> #$id";
			},
			10,
			2
		);
		replay( 'messages_message_sent', 1 );
		$event = sent()[0];
		same( 'hi alice by REST', $event['text'] );
		same( '<p>hi alice by REST</p> #23', $event['html'] );
	}
);

test(
	'message: notices are known from what is stored after the hook',
	function () {
		start();
		$join = replay( 'messages_message_sent', 3 )[0];
		$left = replay( 'messages_message_sent', 4 )[0];
		World::$meta[ $join->id ] = array( 'group_message_group_joined' => 'yes' );
		World::$meta[ $left->id ] = array( 'group_message_group_left' => 'yes' );
		$events                   = sent();
		same( 'join', $events[0]['notice'] );
		same( 'left', $events[1]['notice'] );
		same( array( true, true ), array( $events[0]['silent'], $events[1]['silent'] ) );
		same( '<p> </p>', $events[0]['text'] );
	}
);

test(
	'message: attachments are counted',
	function () {
		start();
		World::$meta[22] = array(
			'bp_media_ids'    => '4,5,6',
			'bp_video_ids'    => '',
			'bp_document_ids' => array( 8 ),
			'_gif_data'       => array( 'still' => 'x' ),
		);
		replay( 'messages_message_sent', 0 );
		same(
			array(
				'photos'    => 3,
				'videos'    => 0,
				'documents' => 1,
				'gif'       => true,
			),
			sent()[0]['attachments']
		);
	}
);

test(
	'message: blocks in both directions hide, unless blocking is off',
	function () {
		start();
		World::$tables['blocks'] = array( array( 5, 6 ), array( 9, 5 ) );
		replay( 'messages_message_sent', 2 );
		same( array( 6, 9 ), sent()[0]['hiddenFrom'] );
		World::$blocking = false;
		replay( 'messages_message_sent', 2 );
		same( array(), sent()[0]['hiddenFrom'] );
	}
);

test(
	'thread_deleted: with the recipients',
	function () {
		start();
		replay( 'bp_messages_message_delete_thread', 0 );
		same(
			array(
				array(
					'type'       => 'thread_deleted',
					'threadId'   => 3,
					'recipients' => array( 2, 4, 3 ),
				),
			),
			sent()
		);
	}
);

test(
	'blanked: the member\'s own messages; nothing if there were none',
	function () {
		start();
		replay( 'bp_messages_thread_messages_after_update', 0 );
		replay( 'bp_messages_thread_messages_after_update', 2 );
		same(
			array(
				array(
					'type'       => 'blanked',
					'threadId'   => 3,
					'userId'     => 2,
					'messageIds' => array( 3 ),
				),
			),
			sent()
		);
	}
);

test(
	'read: with the newest message and the unread total',
	function () {
		start();
		World::$unread[3]             = 4;
		World::$tables['messages'][1] = 23;
		replay( 'messages_thread_mark_as_read' );
		same(
			array(
				array(
					'type'        => 'read',
					'threadId'    => 1,
					'userId'      => 3,
					'unreadTotal' => 4,
					'upTo'        => 23,
				),
			),
			sent()
		);
	}
);

test(
	'unread: the member comes from the request',
	function () {
		start();
		World::$user = 3;
		replay( 'messages_thread_mark_as_unread' );
		same(
			array(
				'type'        => 'unread',
				'threadId'    => 1,
				'userId'      => 3,
				'unreadTotal' => 0,
			),
			sent()[0]
		);
		World::$displayed = 9;
		replay( 'messages_thread_mark_as_unread' );
		same( 9, sent()[0]['userId'], 'the displayed member wins, as in BuddyBoss' );
	}
);

test(
	'archived and unarchived: the last one of a request wins',
	function () {
		start();
		replay( 'bb_messages_thread_archived' );
		same( array( 'archived', 1, 3 ), array_slice( array_values( sent()[0] ), 0, 3 ) );
		replay( 'bb_messages_thread_archived' );
		replay( 'bb_messages_thread_unarchived' );
		$events = sent();
		same( 1, count( $events ) );
		same( 'unarchived', $events[0]['type'] );
	}
);

test(
	'block and unblock; a report is no block',
	function () {
		start();
		replay( 'bp_moderation_after_save' );
		same(
			array(
				array(
					'type'      => 'block',
					'userId'    => 3,
					'blockedId' => 7,
				),
			),
			sent()
		);
		replay( 'bb_moderation_after_delete' );
		same( 'unblock', sent()[0]['type'] );
		$report              = recorded( 'bp_moderation_after_save' )[0][0];
		$report->user_report = 1;
		do_action( 'bp_moderation_after_save', $report );
		$activity            = recorded( 'bp_moderation_after_save' )[0][0];
		$activity->item_type = 'activity';
		do_action( 'bp_moderation_after_save', $activity );
		same( array(), sent() );
	}
);

test(
	'suspended and unsuspended; the same hooks of a block say nothing',
	function () {
		start();
		foreach ( recorded( 'bp_suspend_hide_user' ) as $arguments ) {
			do_action( 'bp_suspend_hide_user', ...$arguments );
		}
		same(
			array(
				array(
					'type'   => 'suspended',
					'userId' => 7,
				),
			),
			sent()
		);
		foreach ( recorded( 'bp_suspend_unhide_user' ) as $arguments ) {
			do_action( 'bp_suspend_unhide_user', ...$arguments );
		}
		same( 'unsuspended', sent()[0]['type'] );
	}
);

test(
	'suspended: other reasons to hide a member are none',
	function () {
		start();
		do_action( 'bp_suspend_hide_user', 7, 1, array( 'action' => 'hidden' ) );
		do_action( 'bp_suspend_unhide_user', 7, 0, 0, array( 'action' => 'hidden' ) );
		same( array(), sent() );
	}
);

test(
	'participants: the table decides who is in the thread of a group',
	function () {
		start();
		World::$tables['recipients'][21] = array( 2, 7, 8, 10 );
		replay( 'groups_join_group' );
		replay( 'groups_accept_invite' );
		replay( 'groups_unban_member' );
		replay( 'bb_group_messages_unbanned_member' );
		$events = sent();
		same( array( array( 7 ), array( 10 ), array( 8 ) ), array_column( $events, 'added' ) );
		same( array( 21, 21, 21 ), array_column( $events, 'threadId' ) );
		World::$tables['recipients'][21] = array( 2, 3 );
		replay( 'groups_remove_member', 0 );
		replay( 'groups_removed_member' );
		$events = sent();
		same( 1, count( $events ), 'both hooks are one change' );
		same( array( array(), array( 7 ) ), array( $events[0]['added'], $events[0]['removed'] ) );
		replay( 'groups_leave_group' );
		same( array( 3 ), sent()[0]['added'], 'BuddyBoss left the row, so the member still reads the thread' );
	}
);

test(
	'participants: a group without a thread says nothing',
	function () {
		start();
		World::$groups = array();
		replay( 'groups_join_group' );
		same( array(), sent() );
	}
);

test(
	'notification: new ones only, once for each kind and member',
	function () {
		start();
		replay( 'bp_notification_after_save', 0 );
		replay( 'bp_notification_after_save', 0 );
		$read         = recorded( 'bp_notification_after_save' )[1][0];
		$read->is_new = 0;
		do_action( 'bp_notification_after_save', $read );
		$changed           = recorded( 'bp_notification_after_save' )[1][0];
		$changed->inserted = false;
		do_action( 'bp_notification_after_save', $changed );
		same(
			array(
				array(
					'type'        => 'notification',
					'userId'      => 3,
					'component'   => 'messages',
					'action'      => 'bb_messages_new',
					'unreadTotal' => 7,
				),
			),
			sent()
		);
	}
);

test(
	'notification: only the first members of a request are counted',
	function () {
		start();
		for ( $user = 1; $user <= 60; $user++ ) {
			$one          = recorded( 'bp_notification_after_save' )[0][0];
			$one->user_id = $user;
			do_action( 'bp_notification_after_save', $one );
		}
		$events = sent();
		same( 60, count( $events ) );
		same( 50, count( array_column( $events, 'unreadTotal' ) ) );
	}
);

test(
	'deleted user',
	function () {
		start();
		replay( 'deleted_user' );
		same(
			array(
				array(
					'type'   => 'deleted',
					'userId' => 20,
				),
			),
			sent()
		);
	}
);

test(
	'signed_out: the session of the cookie, once for both hooks',
	function () {
		start();
		$verifier            = hash( 'sha256', 'token of carol' );
		World::$session      = 'token of carol';
		World::$user_meta[4] = array( 'session_tokens' => array( $verifier => array( 'expiration' => time() + 100 ) ) );
		replay( 'delete_user_meta', 0 );
		replay( 'wp_logout' );
		$events = sent();
		same( 1, count( $events ) );
		same( array( 'signed_out', 4, Buddyline_Session::of_token( 'token of carol' ) ), array_values( $events[0] ) );
	}
);

test(
	'signed_out: "everywhere else" ends the other sessions, expired ones are left out',
	function () {
		start();
		World::$user_meta[5] = array(
			'session_tokens' => array(
				'aa' => array( 'expiration' => time() + 100 ),
				'bb' => array( 'expiration' => time() + 100 ),
				'cc' => array( 'expiration' => time() - 100 ),
			),
		);
		do_action( 'update_user_meta', 1, 5, 'session_tokens', array( 'aa' => array( 'expiration' => time() + 100 ) ) );
		do_action( 'update_user_meta', 1, 5, 'nickname', 'x' );
		$events = sent();
		same( array( Buddyline_Session::of_verifier( 'bb' ) ), array_column( $events, 'sid' ) );
	}
);

test(
	'signed_out: a new password ends all sessions, an unchanged one none',
	function () {
		start();
		replay( 'wp_set_password' );
		replay( 'profile_update' );
		$events = sent();
		same( 0, count( array_column( $events, 'sid' ) ) );
		same( array( array( 'signed_out', 12 ) ), array_map( 'array_values', $events ) );
		do_action( 'profile_update', 12, (object) array( 'user_pass' => 'hash of 12' ) );
		same( array(), sent() );
	}
);

test(
	'signed_out: a revoked application password',
	function () {
		start();
		do_action( 'wp_delete_application_password', 4, array( 'uuid' => 'u-1' ) );
		World::$user         = 4;
		World::$app_password = 'u-1';
		same( Buddyline_Session::current(), sent()[0]['sid'] );
	}
);

test(
	'hooks: nothing that another plugin passes breaks the page',
	function () {
		start();
		$junk = array( null, false, true, -1, 0, 3.5, NAN, '', 'x', '-1', "1\n", '1 OR 1=1', array(), array( array() ), new stdClass(), (object) array( 'id' => array(), 'thread_id' => new stdClass() ), (object) array( 'id' => 1, 'thread_id' => 1, 'sender_id' => 1, 'recipients' => 'x', 'message' => array(), 'date_sent' => array() ), str_repeat( '9', 400 ), function () {} );
		foreach ( Buddyline_Hooks::table() as $hook ) {
			foreach ( $junk as $value ) {
				quiet(
					function () use ( $hook, $value, $junk ) {
						do_action( $hook[0], $value, $value, $value, $value );
						do_action( $hook[0], 1, $value, 'session_tokens', $value );
						do_action( $hook[0] );
					}
				);
			}
		}
		quiet( 'sent' );
		foreach ( World::$posts as $post ) {
			foreach ( $post['body']['events'] as $event ) {
				foreach ( array( 'threadId', 'messageId', 'userId', 'senderId', 'blockedId' ) as $field ) {
					truth( ! isset( $event[ $field ] ) || ( is_int( $event[ $field ] ) && $event[ $field ] > 0 ), $field . ' of ' . json_encode( $event ) );
				}
			}
		}
	}
);

test(
	'hooks: an exception in a filter of another plugin loses that event only',
	function () {
		start();
		add_filter(
			'bp_get_the_thread_message_content',
			function ( $text ) {
				if ( false !== strpos( $text, 'REST' ) ) {
					throw new Error( 'fatal' );
				}
				return $text;
			}
		);
		replay( 'messages_message_sent', 0 );
		replay( 'messages_message_sent', 1 );
		$events = quiet( 'sent' );
		same( array( 'resync', 'message' ), array_column( $events, 'type' ) );
		same( 22, $events[1]['messageId'] );
	}
);

test(
	'hooks: an exception of the database does not reach the page',
	function () {
		start();
		$GLOBALS['wpdb'] = new class() extends Stand_In_Wpdb {
			public function get_results( $sql ) {
				throw new Exception( 'gone away' );
			}
			public function query( $sql ) {
				throw new Exception( 'gone away' );
			}
		};
		replay( 'messages_message_sent', 0 );
		same( array(), quiet( 'sent' ) );
	}
);

test(
	'events: a filter changes or drops them',
	function () {
		start();
		add_filter(
			'buddyline_event',
			function ( $event ) {
				return 'read' === $event['type'] ? null : $event + array( 'clientId' => 'c-1' );
			}
		);
		replay( 'messages_thread_mark_as_read' );
		replay( 'messages_message_sent', 0 );
		$events = sent();
		same( 1, count( $events ) );
		same( 'c-1', $events[0]['clientId'] );
	}
);

test(
	'events: one that replaces another takes the last place',
	function () {
		start();
		replay( 'bp_moderation_after_save' );
		replay( 'messages_thread_mark_as_read' );
		replay( 'bb_moderation_after_delete' );
		same( array( 'read', 'unblock' ), array_column( sent(), 'type' ) );
	}
);

// Sending.

test(
	'sending: one signed request at shutdown, to the internal address, without redirects',
	function () {
		start();
		replay( 'messages_message_sent', 0 );
		replay( 'messages_thread_mark_as_read' );
		same( 0, count( World::$posts ), 'nothing before shutdown' );
		sent();
		same( 1, count( World::$posts ) );
		$post = World::$posts[0];
		same( 'http://127.0.0.1:8080/site/events', $post['url'] );
		same( array( 'id', 'sentAt', 'site', 'plugin', 'events' ), array_keys( $post['body'] ) );
		same( 'https://community.example', $post['body']['site'] );
		same( '0.1.0', $post['body']['plugin'] );
		truth( Buddyline_Signature::is_id( $post['body']['id'] ), 'the id' );
		same( 0, $post['args']['redirection'] );
		truth( $post['args']['timeout'] <= 0.5, 'the timeout' );
		$key = Buddyline_Signature::derive_key( str_repeat( 'k', 64 ), 'events' );
		same( '', Buddyline_Signature::verify( array( $key ), $post['args']['headers']['Buddyline-Signature'], $post['args']['body'], time() )['reason'] );
		sent();
		same( 1, count( World::$posts ), 'only once' );
	}
);

test(
	'sending: after every other callback of shutdown, and their events too',
	function () {
		$order = array();
		start();
		add_action(
			'shutdown',
			function () use ( &$order ) {
				$order[] = 'other';
				replay( 'messages_thread_mark_as_read' );
			},
			1000000
		);
		World::$answer = function () use ( &$order ) {
			$order[] = 'post';
			return answer( 200, array( 'accepted' => 1 ) );
		};
		replay( 'messages_message_sent', 0 );
		same( array( 'message', 'read' ), array_column( sent(), 'type' ) );
		same( array( 'other', 'post' ), $order );
	}
);

test(
	'sending: nothing without a secret or an address, and no query without events',
	function () {
		start();
		sent();
		same( array(), $GLOBALS['wpdb']->queries );
		World::$options['buddyline_secret'] = 'short';
		replay( 'messages_message_sent', 0 );
		same( array(), sent() );
		World::reset();
		start();
		World::$options['buddyline_url']        = '';
		World::$options['buddyline_events_url'] = '';
		replay( 'messages_message_sent', 0 );
		same( array(), sent() );
		same( null, state( 'missed' ) );
	}
);

test(
	'sending: without an internal address events go below the public one',
	function () {
		World::$options['buddyline_events_url'] = '';
		same( 'https://community.example/live/site/events', Buddyline_Options::events_url() );
		World::$options['buddyline_url'] = 'ws://127.0.0.1:9000/';
		same( 'http://127.0.0.1:9000/site/events', Buddyline_Options::events_url() );
	}
);

test(
	'sending: while a secret is rolled, both sign',
	function () {
		start();
		$old = World::$options['buddyline_secret'];
		$new = Buddyline_Options::roll_secret();
		truth( $old !== $new && Buddyline_Options::is_secret( $new ), 'a new secret' );
		replay( 'messages_message_sent', 0 );
		sent();
		$post = World::$posts[0]['args'];
		foreach ( array( $old, $new ) as $secret ) {
			$key = Buddyline_Signature::derive_key( $secret, 'events' );
			same( '', Buddyline_Signature::verify( array( $key ), $post['headers']['Buddyline-Signature'], $post['body'], time() )['reason'] );
		}
		World::$options['buddyline_secret_previous']['until'] = time();
		same( array( $new ), Buddyline_Options::secrets(), 'after a day' );
	}
);

test(
	'failure: refused, the next requests skip the server, and the missed events are counted',
	function () {
		start();
		World::$answer = new WP_Error( 'http_request_failed', 'cURL error 7: Failed to connect' );
		replay( 'messages_message_sent', 0 );
		sent();
		same( array( '1', '1' ), array( state( 'failures' ), state( 'missed' ) ) );
		same( 'cURL error 7: Failed to connect', state( 'last_error' ) );
		truth( (int) state( 'retry_at' ) >= time() + 1, 'a pause' );
		truth( isset( World::$scheduled[ Buddyline_Sender::RETRY ] ), 'a retry without events' );
		for ( $i = 0; $i < 3; $i++ ) {
			replay( 'messages_message_sent', 0 );
			replay( 'messages_message_sent', 1 );
			same( array(), sent() );
		}
		same( 1, count( World::$posts ) );
		same( '7', state( 'missed' ) );
	}
);

test(
	'failure: the server is back, one resync comes first, the counters are reset',
	function () {
		start();
		World::$options += array(
			'buddyline_failures' => '3',
			'buddyline_retry_at' => (string) ( time() - 1 ),
			'buddyline_missed'   => '9',
		);
		replay( 'messages_message_sent', 0 );
		same( array( 'resync', 'message' ), array_column( sent(), 'type' ) );
		same( array( '0', '0' ), array( state( 'failures' ), state( 'missed' ) ) );
		replay( 'messages_message_sent', 0 );
		same( array( 'message' ), array_column( sent(), 'type' ), 'one resync' );
	}
);

test(
	'failure: what others miss while the resync is on its way is not forgotten',
	function () {
		start();
		World::$options += array( 'buddyline_missed' => '9' );
		World::$answer   = function () {
			Buddyline_State::add_missed( 2 );
			return answer( 200, array( 'accepted' => 1 ) );
		};
		replay( 'messages_message_sent', 0 );
		sent();
		same( '2', state( 'missed' ) );
	}
);

test(
	'failure: a resync that fails is owed once, and not counted as an event',
	function () {
		$queue          = start();
		World::$answer  = answer( 500, '' );
		World::$options['buddyline_missed'] = '5';
		replay( 'messages_message_sent', 0 );
		sent();
		same( '6', state( 'missed' ) );
		World::reset();
		$queue         = start();
		World::$answer = answer( 500, '' );
		$queue->put( 'resync', array( 'type' => 'resync' ) );
		sent();
		same( '1', state( 'missed' ), 'a resync of its own' );
	}
);

test(
	'failure: the pause grows to a minute',
	function () {
		same( array( 2, 4, 8, 16, 32, 60, 60, 60 ), array_map( array( 'Buddyline_State', 'pause' ), array( 1, 2, 3, 4, 5, 6, 7, 1000 ) ) );
	}
);

test(
	'failure: of many processes one tries again',
	function () {
		start();
		World::$options += array(
			'buddyline_failures' => '1',
			'buddyline_retry_at' => '5',
		);
		truth( Buddyline_State::claim_retry( 5, 100 ), 'the first' );
		same( false, Buddyline_State::claim_retry( 5, 101 ), 'the second' );
		same( '100', state( 'retry_at' ) );
		World::$options['buddyline_retry_at'] = (string) ( time() - 5 );
		World::$answer                        = new WP_Error( 'http_request_failed', 'timed out' );
		replay( 'messages_message_sent', 0 );
		sent();
		same( '2', state( 'failures' ) );
		truth( (int) state( 'retry_at' ) >= time() + 3, 'a longer pause' );
	}
);

test(
	'failure: a process that comes second does not try',
	function () {
		start();
		$GLOBALS['wpdb'] = new class() extends Stand_In_Wpdb {
			public function get_results( $sql ) {
				$rows                                 = parent::get_results( $sql );
				World::$options['buddyline_retry_at'] = (string) ( time() + 30 );
				return $rows;
			}
		};
		World::$options += array(
			'buddyline_failures' => '1',
			'buddyline_retry_at' => (string) ( time() - 5 ),
		);
		replay( 'messages_message_sent', 0 );
		sent();
		same( array( 0, '1' ), array( count( World::$posts ), state( 'missed' ) ) );
	}
);

test(
	'failure: Retry-After is obeyed, up to a minute',
	function () {
		start();
		World::$answer = answer( 503, array( 'error' => 'draining' ), array( 'retry-after' => '30' ) );
		replay( 'messages_message_sent', 0 );
		sent();
		truth( abs( (int) state( 'retry_at' ) - time() - 30 ) <= 1, '30 s' );
		World::reset();
		start();
		World::$answer = answer( 429, '', array( 'retry-after' => '86400' ) );
		replay( 'messages_message_sent', 0 );
		sent();
		truth( (int) state( 'retry_at' ) <= time() + 60, 'at most a minute' );
	}
);

test(
	'failure: answers that are not the server\'s count as failures',
	function () {
		foreach ( array( answer( 200, '<html>' ), answer( 302, '' ), answer( 401, array( 'error' => 'unauthorized' ) ), answer( 404, '' ), answer( 413, '' ), answer( 500, '' ), answer( 200, '[]' ) ) as $answer ) {
			World::reset();
			start();
			World::$answer = $answer;
			replay( 'messages_message_sent', 0 );
			sent();
			same( '1', state( 'missed' ), json_encode( $answer ) );
		}
	}
);

test(
	'failure: WP-Cron tells a server that is back, without any event',
	function () {
		start();
		World::$options += array(
			'buddyline_failures' => '2',
			'buddyline_retry_at' => (string) ( time() - 1 ),
			'buddyline_missed'   => '4',
		);
		do_action( Buddyline_Sender::RETRY );
		same( array( array( 'type' => 'resync' ) ), World::$posts[0]['body']['events'] );
		do_action( Buddyline_Sender::RETRY );
		same( 1, count( World::$posts ), 'nothing is due' );
	}
);

test(
	'bodies: at most 512 KiB and 1,000 events each',
	function () {
		$events = array();
		for ( $i = 1; $i <= 2500; $i++ ) {
			$events[] = array(
				'type' => 'read',
				'n'    => $i,
			);
		}
		$split = Buddyline_Sender::split( $events );
		same( array( 1000, 1000, 500 ), array_column( $split['bodies'], 'count' ) );
		$big = array();
		for ( $i = 0; $i < 20; $i++ ) {
			$big[] = array(
				'type' => 'message',
				'text' => str_repeat( "\u{fc}<\"/", 10000 ),
			);
		}
		$split = Buddyline_Sender::split( $big );
		same( 20, array_sum( array_column( $split['bodies'], 'count' ) ) );
		foreach ( $split['bodies'] as $body ) {
			truth( strlen( $body['json'] ) <= 524288, 'size' );
			truth( is_array( json_decode( $body['json'], true ) ), 'JSON' );
		}
		truth( count( $split['bodies'] ) < 5, 'few bodies' );
	}
);

test(
	'bodies: a message that is too long is cut, others are dropped',
	function () {
		$cut = function ( $text ) {
			$split = Buddyline_Sender::split(
				array(
					array(
						'type'     => 'message',
						'threadId' => 1,
						'text'     => $text,
						'html'     => "<p>$text</p>",
					),
					array(
						'type' => 'other',
						'text' => str_repeat( 'x', 600000 ),
					),
				)
			);
			same( 1, $split['dropped'] );
			return json_decode( $split['bodies'][0]['json'], true )['events'][0];
		};
		$event = $cut( '<b>' . str_repeat( 'x', 600000 ) . '</b>' );
		same( array( 'message', 1, true ), array( $event['type'], $event['threadId'], $event['truncated'] ) );
		same( str_repeat( 'x', 65536 ) . '…', $event['text'] );
		same( '<p>' . $event['text'] . '</p>', $event['html'] );
		foreach ( array( "\u{1f600}", '&amp;', '&#x1f600;', "\u{fc}" ) as $piece ) {
			for ( $shift = 0; $shift < 9; $shift++ ) {
				$text = $cut( str_repeat( 'x', $shift ) . str_repeat( $piece, intdiv( 400000, strlen( $piece ) ) ) )['text'];
				same( str_repeat( 'x', $shift ) . '…', str_replace( $piece, '', $text ), "whole pieces of $piece" );
				truth( strlen( $text ) > 65500, 'no more is cut' );
			}
		}
		truth( false === strpos( $cut( str_repeat( 'a < b <script>alert(1)</script> ', 40000 ) )['html'], '<script' ), 'no tags' );
	}
);

test(
	'bodies: bytes that are not UTF-8 are replaced',
	function () {
		start();
		$message          = recorded( 'messages_message_sent' )[0][0];
		$message->message = "a\xff\xfeb\0c";
		do_action( 'messages_message_sent', $message );
		same( "a\u{fffd}\u{fffd}b\0c", sent()[0]['text'] );
	}
);

test(
	'bodies: 20,000 recipients at most, in one event',
	function () {
		start();
		$message             = recorded( 'messages_message_sent' )[0][0];
		$message->recipients = array();
		for ( $user = 10; $user < 25010; $user++ ) {
			$message->recipients[] = (object) array( 'user_id' => (string) $user );
		}
		do_action( 'messages_message_sent', $message );
		$events = sent();
		same( 20000, count( $events[0]['recipients'] ) );
		truth( strlen( World::$posts[0]['args']['body'] ) < 524288, 'size' );
	}
);

test(
	'queue: a long process sends when a thousand events wait',
	function () {
		start();
		for ( $thread = 1; $thread <= 2300; $thread++ ) {
			do_action( 'messages_thread_mark_as_read', $thread, 3 );
		}
		same( 2, count( World::$posts ) );
		same( 300, count( sent() ) );
	}
);

test(
	'sending: all requests of a page together are bounded in time',
	function () {
		start();
		World::$answer = function () {
			usleep( 1100000 );
			return answer( 200, array( 'accepted' => 1 ) );
		};
		$queue         = new Buddyline_Queue();
		$sender        = new Buddyline_Sender( $queue );
		for ( $i = 0; $i < 6; $i++ ) {
			$queue->put(
				"m$i",
				array(
					'type' => 'message',
					'text' => str_repeat( 'x', 400000 ),
				)
			);
		}
		$sender->flush();
		same( 2, count( World::$posts ) );
		same( '4', state( 'missed' ) );
	}
);

// Routes.

test(
	'ticket: for the signed-in member, whatever the request says',
	function () {
		start();
		World::$user    = 3;
		World::$session = 'token of bob';
		World::$tables  = array(
			'recipients' => array(
				1  => array( 2, 3 ),
				5  => array( 3, 7 ),
				21 => array( 2, 3, 4 ),
				9  => array( 4, 5 ),
			),
			'messages'   => array(
				1  => 40,
				5  => 12,
				21 => 39,
				9  => 50,
			),
			'blocks'     => array( array( 3, 7 ), array( 8, 3 ), array( 4, 5 ) ),
		);
		$response       = call( 'GET buddyline/v1/ticket', new WP_REST_Request( '{"sub":"1","user_id":1}', array() ) );
		same( 'no-store, private', $response->headers['Cache-Control'] );
		same( 'wss://community.example/live', $response->data['url'] );
		$parts  = explode( '.', $response->data['ticket'] );
		$decode = function ( $part ) {
			return json_decode( base64_decode( strtr( $part, '-_', '+/' ) ), true );
		};
		same(
			array(
				'typ' => 'JWT',
				'alg' => 'HS256',
				'kid' => 'buddyline-ticket',
			),
			$decode( $parts[0] )
		);
		$claims = $decode( $parts[1] );
		same( array( 'iss', 'aud', 'sub', 'iat', 'exp', 'jti', 'sid', 'threads', 'blocked', 'more' ), array_keys( $claims ) );
		same( array( 'https://community.example', 'buddyline', '3' ), array( $claims['iss'], $claims['aud'], $claims['sub'] ) );
		same( 300, $claims['exp'] - $claims['iat'] );
		same( $claims['exp'], $response->data['expires'] );
		same( array( 1, 21, 5 ), $claims['threads'], 'newest first' );
		same( array( 7, 8 ), $claims['blocked'], 'both directions' );
		same( false, $claims['more'] );
		same( Buddyline_Session::of_token( 'token of bob' ), $claims['sid'] );
		$mac = hash_hmac( 'sha256', $parts[0] . '.' . $parts[1], Buddyline_Signature::derive_key( str_repeat( 'k', 64 ), 'tickets' ), true );
		same( Buddyline_Signature::base64url( $mac ), $parts[2] );
	}
);

test(
	'ticket: long lists are cut, and it says so',
	function () {
		start();
		World::$user = 3;
		for ( $thread = 1; $thread <= 501; $thread++ ) {
			World::$tables['recipients'][ $thread ] = array( 3 );
			World::$tables['messages'][ $thread ]   = $thread;
		}
		$claims = Buddyline_Ticket::claims( 3, 'x', 1 );
		same( array( 500, 501, 2, true ), array( count( $claims['threads'] ), $claims['threads'][0], end( $claims['threads'] ), $claims['more'] ) );
		unset( World::$tables['recipients'][1] );
		same( false, Buddyline_Ticket::claims( 3, 'x', 1 )['more'] );
	}
);

test(
	'ticket: 401 without a user, 403 when suspended, 503 without a server',
	function () {
		start();
		same( 401, call( 'GET buddyline/v1/ticket' )->data['status'] );
		World::$user      = 7;
		World::$suspended = array( 7 );
		same( 403, call( 'GET buddyline/v1/ticket' )->data['status'] );
		World::$suspended                = array();
		World::$options['buddyline_url'] = '';
		same( 503, call( 'GET buddyline/v1/ticket' )->data['status'] );
	}
);

test(
	'ticket: a rolled secret signs only when the server has shown that it has it',
	function () {
		start();
		$old = Buddyline_Options::secret();
		$new = Buddyline_Options::roll_secret();
		same( $old, Buddyline_Options::ticket_secret() );
		$response = call( 'POST buddyline/v1/status', request( array(), array( 'secret' => $old ) ) );
		truth( isset( $response['features'] ), 'the old secret is still accepted' );
		same( $old, Buddyline_Options::ticket_secret() );
		call( 'POST buddyline/v1/status', request( array(), array( 'secret' => $new ) ) );
		same( $new, Buddyline_Options::ticket_secret() );
		Buddyline_Options::roll_secret();
		same( $new, Buddyline_Options::ticket_secret(), 'the next roll begins anew' );
	}
);

test(
	'ticket: the session of a bearer token is its own',
	function () {
		World::$user                   = 3;
		$_SERVER['HTTP_AUTHORIZATION'] = 'Bearer a.b.c';
		$first                         = Buddyline_Session::current();
		$_SERVER['HTTP_AUTHORIZATION'] = 'Bearer a.b.d';
		truth( 1 === preg_match( '/^[0-9a-f]{32}$/D', $first ) && Buddyline_Session::current() !== $first, 'sid' );
		World::$session = 'cookie';
		same( Buddyline_Session::of_token( 'cookie' ), Buddyline_Session::current(), 'a cookie wins, as in WordPress' );
		unset( $_SERVER['HTTP_AUTHORIZATION'] );
	}
);

test(
	'status: public part tells that the plugin is there, and nothing else',
	function () {
		start();
		same(
			array(
				'plugin'  => 'buddyline',
				'version' => '0.1.0',
				'api'     => 1,
			),
			call( 'GET buddyline/v1/status' )
		);
	}
);

test(
	'status: signed part, and a resync when something was missed',
	function () {
		start();
		World::$options += array( 'buddyline_missed' => '2' );
		$status          = call( 'POST buddyline/v1/status', request( array() ) );
		same( array( 'version', 'api', 'features', 'site', 'time', 'buddyboss', 'server' ), array_keys( $status ) );
		same( array( 'events', 'tickets', 'calls', 'activity' ), $status['features'] );
		same( 'https://community.example', $status['site'] );
		same( '3.4.1', $status['buddyboss'] );
		same(
			array(
				'url'       => 'http://127.0.0.1:8080/site/events',
				'lastOk'    => null,
				'lastError' => null,
				'missed'    => 2,
			),
			$status['server']
		);
		same( array( array( 'type' => 'resync' ) ), sent() );
		same( 0, call( 'POST buddyline/v1/status', request( array() ) )['server']['missed'] );
	}
);

test(
	'signed routes: forged, altered, old, replayed and malformed requests get one answer',
	function () {
		start();
		$routes = array( 'status', 'calls', 'activity', 'test-event' );
		foreach ( $routes as $route ) {
			$again = request( array( 'users' => array(), 'events' => array(), 'token' => 'x' ) );
			call( "POST buddyline/v1/$route", $again );
			$bad = array(
				'replayed'       => clone $again,
				'no header'      => request( array(), array( 'header' => null ) ),
				'other secret'   => request( array(), array( 'secret' => str_repeat( 'x', 64 ) ) ),
				'events key'     => request( array(), array( 'key' => 'events' ) ),
				'too old'        => request( array(), array( 'time' => time() - 302 ) ),
				'in the future'  => request( array(), array( 'time' => time() + 302 ) ),
				'no id'          => request( '{"id":""}' ),
				'short id'       => request( array( 'id' => 'short' ) ),
				'id is a list'   => request( array( 'id' => array( str_repeat( 'a', 20 ) ) ) ),
				'id with a line' => request( array( 'id' => str_repeat( 'a', 20 ) . "\n" ) ),
				'not JSON'       => request( 'x' ),
				'deep JSON'      => request( '{"id":"' . str_repeat( 'a', 20 ) . '","x":' . str_repeat( '[', 100 ) . str_repeat( ']', 100 ) . '}' ),
				'empty'          => request( '' ),
				'huge'           => request( array( 'x' => str_repeat( 'x', 600000 ) ) ),
			);
			foreach ( $bad as $why => $request ) {
				$response = quiet(
					function () use ( $route, $request ) {
						return call( "POST buddyline/v1/$route", $request );
					}
				);
				truth( $response instanceof WP_REST_Response, "$route: $why" );
				same( array( 401, array( 'error' => 'unauthorized' ) ), array( $response->status, $response->data ), "$route: $why" );
			}
		}
		same( array(), array_merge( World::$notified, World::$activity ) );
	}
);

test(
	'signed routes: questions for the Allow header are no refusals',
	function () {
		start();
		$request = request( array() );
		truth( isset( call( 'POST buddyline/v1/status', $request )['features'] ), 'accepted' );
		truth( is_wp_error( may_call( World::$routes['POST buddyline/v1/status'], new WP_REST_Request( '', array(), 'GET' ) ) ), 'GET' );
		same( null, state( 'refused_at' ) );
		same( 1, count( Stand_In_Wpdb::ids() ) );
	}
);

test(
	'signed routes: a login opens none of them',
	function () {
		start();
		World::$user = 1;
		World::$caps = array( 'manage_options' );
		$response    = quiet(
			function () {
				return call( 'POST buddyline/v1/activity', request( array( 'users' => array() ), array( 'header' => null ) ) );
			}
		);
		same( 401, $response->status );
	}
);

test(
	'signed routes: without a secret nothing is accepted',
	function () {
		start();
		World::$options['buddyline_secret'] = '';
		$response                           = quiet(
			function () {
				return call( 'POST buddyline/v1/status', request( array() ) );
			}
		);
		same( 401, $response->status );
	}
);

test(
	'signed routes: refusals are noted once a minute',
	function () {
		start();
		quiet(
			function () {
				call( 'POST buddyline/v1/status', request( array(), array( 'time' => time() - 1000 ) ) );
				call( 'POST buddyline/v1/status', request( array(), array( 'header' => '' ) ) );
			}
		);
		same( 'clock', state( 'refused_why' ) );
	}
);

test(
	'signed routes: allowed by "Private REST APIs", the ticket is not',
	function () {
		start();
		$allowed = apply_filters( 'bb_exclude_endpoints_from_restriction', array( '/x' ) );
		truth( in_array( '/buddyline/v1/calls', $allowed, true ) && in_array( '/x', $allowed, true ), 'calls' );
		same( false, in_array( '/buddyline/v1/ticket', $allowed, true ) );
	}
);

test(
	'replay: ids are removed when they expire, and are bounded',
	function () {
		$now = 1000000;
		truth( Buddyline_Replay::accept( str_repeat( 'a', 16 ), $now ), 'new' );
		same( false, Buddyline_Replay::accept( str_repeat( 'a', 16 ), $now + 600 ), 'within both windows' );
		truth( Buddyline_Replay::accept( str_repeat( 'A', 16 ), $now ), 'another case is another id' );
		truth( Buddyline_Replay::accept( str_repeat( 'b', 16 ), $now + 700 ), 'later' );
		same( 1, count( Stand_In_Wpdb::ids() ) );
		for ( $i = 0; $i < Buddyline_Replay::LIMIT; $i++ ) {
			World::$options[ "buddyline_id_$i" ] = (string) ( $now + 2000 );
		}
		same( false, Buddyline_Replay::accept( str_repeat( 'c', 16 ), $now + 700 ), 'full' );
	}
);

test(
	'calls: actions and notifications; a missed call replaces the ringing one',
	function () {
		start();
		$seen = array();
		foreach ( array( 'offline', 'missed' ) as $type ) {
			add_action(
				"buddyline_call_$type",
				function ( $call ) use ( &$seen ) {
					$seen[] = $call;
				}
			);
		}
		$call   = array(
			'callId'   => 'c-1',
			'threadId' => 4,
			'callerId' => 2,
			'calledId' => 4,
			'at'       => 1790000000,
			'group'    => false,
		);
		$events = array( array( 'type' => 'offline' ) + $call, array( 'type' => 'missed' ) + $call, array( 'type' => 'new kind' ) + $call );
		same( array( 'accepted' => 2 ), call( 'POST buddyline/v1/calls', request( array( 'events' => $events ) ) ) );
		same( array( 'offline', 'missed' ), array_column( $seen, 'type' ) );
		same( array( 'type', 'callId', 'threadId', 'callerId', 'calledId', 'at', 'group' ), array_keys( $seen[0] ) );
		same( array( 'buddyline_call_offline', 'buddyline_call_missed' ), array_column( World::$notified, 'component_action' ) );
		same( array( 4, 4, 2 ), array( World::$notified[1]['user_id'], World::$notified[1]['item_id'], World::$notified[1]['secondary_item_id'] ) );
		same( array( 4, 4, 'buddyline', 'buddyline_call_offline', 2 ), World::$deleted_notifications[1] );
	}
);

test(
	'calls: none for strangers, the blocked, or broken entries',
	function () {
		start();
		World::$tables['blocks'] = array( array( 4, 2 ) );
		$call                    = array(
			'type'     => 'missed',
			'callId'   => 'c-1',
			'threadId' => null,
			'callerId' => 2,
			'calledId' => 5,
			'at'       => PHP_INT_MAX,
		);
		$events                  = array(
			array( 'calledId' => 4 ) + $call,
			array( 'calledId' => 999 ) + $call,
			array( 'calledId' => 2 ) + $call,
			array( 'calledId' => '4' ) + $call,
			array( 'callerId' => -1 ) + $call,
			array( 'callId' => '' ) + $call,
			array( 'threadId' => 'x' ) + $call,
			'x',
			array(),
			$call,
		);
		same( array( 'accepted' => 3 ), call( 'POST buddyline/v1/calls', request( array( 'events' => $events ) ) ) );
		same( array( 5 ), array_column( World::$notified, 'user_id' ) );
		truth( World::$notified[0]['date_notified'] <= gmdate( 'Y-m-d H:i:s' ), 'not in the future' );
		same( 400, call( 'POST buddyline/v1/calls', request( array( 'events' => array_fill( 0, 101, $call ) ) ) )->data['status'] );
		same( 400, call( 'POST buddyline/v1/calls', request( array( 'events' => 'x' ) ) )->data['status'] );
	}
);

test(
	'activity: only newer times of users who exist, never the future',
	function () {
		start();
		$before = strtotime( '2026-11-22 11:00:38 UTC' );
		$users  = array(
			array( 'userId' => 2, 'at' => $before ),
			array( 'userId' => 3, 'at' => 1000000000 ),
			array( 'userId' => 3, 'at' => 900000000 ),
			array( 'userId' => 5, 'at' => PHP_INT_MAX ),
			array( 'userId' => 999, 'at' => $before ),
			array( 'userId' => '4', 'at' => $before ),
			array( 'userId' => -4, 'at' => $before ),
			'x',
		);
		same( array( 'accepted' => 3 ), call( 'POST buddyline/v1/activity', request( array( 'users' => $users ) ) ) );
		same( array( 3, 5 ), array_keys( World::$activity ) );
		same( '2001-09-09 01:46:40', World::$activity[3] );
		truth( World::$activity[5] <= gmdate( 'Y-m-d H:i:s' ), 'now' );
		same( 400, call( 'POST buddyline/v1/activity', request( array( 'users' => array_fill( 0, 501, $users[0] ) ) ) )->data['status'] );
	}
);

test(
	'test-event: sent at once with its token, and the outcome',
	function () {
		start();
		$result = call( 'POST buddyline/v1/test-event', request( array( 'token' => 'abc-1' ) ) );
		same( array( true, 200 ), array( $result['sent'], $result['status'] ) );
		truth( is_int( $result['ms'] ), 'ms' );
		same(
			array(
				array(
					'type'  => 'test',
					'token' => 'abc-1',
				),
			),
			World::$posts[0]['body']['events']
		);
		World::$answer = answer( 401, array( 'error' => 'unauthorized' ) );
		same(
			array(
				'sent'   => false,
				'error'  => 'HTTP 401',
				'status' => 401,
			),
			call( 'POST buddyline/v1/test-event', request( array( 'token' => 'abc-2' ) ) )
		);
		same( 400, call( 'POST buddyline/v1/test-event', request( array( 'token' => "a\n" ) ) )->data['status'] );
		same( null, state( 'failures' ), 'a test does not touch the failure memory' );
	}
);

// Settings and the connection test.

test(
	'addresses: only those of a server, with the right scheme',
	function () {
		$ws = array( 'ws', 'wss' );
		foreach ( array(
			' wss://community.example/live '  => 'wss://community.example/live',
			'https://community.example/live'  => 'wss://community.example/live',
			'http://127.0.0.1:8080'           => 'ws://127.0.0.1:8080',
			'wss://[::1]:8443/'               => 'wss://[::1]:8443/',
			'javascript:alert(1)'             => '',
			'wss://user:pass@host/'           => '',
			'wss://host/?token=1'             => '',
			'wss://host/#x'                   => '',
			'wss://host/"><script>'           => '',
			"wss://host/\nx"                  => '',
			'wss://'                          => '',
			'host'                            => '',
			'ftp://host'                      => '',
		) as $entered => $clean ) {
			same( $clean, Buddyline_Options::clean_url( $entered, $ws ), $entered );
		}
		same( '', Buddyline_Options::clean_url( array(), $ws ) );
		same( 'https://h', Buddyline_Options::clean_url( 'wss://h', array( 'http', 'https' ) ) );
	}
);

test(
	'secrets: 32 to 512 printable characters; white space around does not count',
	function () {
		same( array( false, false, true, true, false, false, false ), array_map( array( 'Buddyline_Options', 'is_secret' ), array( str_repeat( 'a ', 20 ),  str_repeat( 'a', 31 ), str_repeat( 'a', 32 ) . "\n", str_repeat( '~', 512 ), str_repeat( 'a', 513 ), str_repeat( "\u{fc}", 40 ), null ) ) );
		World::$options['buddyline_secret'] = '';
		Buddyline_Options::ensure_secret();
		truth( 1 === preg_match( '/^[0-9a-f]{64}$/D', Buddyline_Options::secret() ), 'made at activation' );
		$made = Buddyline_Options::secret();
		Buddyline_Options::ensure_secret();
		same( $made, Buddyline_Options::secret(), 'kept' );
	}
);

test(
	'activation: a secret, and one resync with the first events',
	function () {
		World::$options['buddyline_secret'] = '';
		Buddyline_Plugin::activate();
		start();
		replay( 'messages_message_sent', 0 );
		same( array( 'resync', 'message' ), array_column( sent(), 'type' ) );
		Buddyline_Plugin::deactivate();
		same( array(), World::$scheduled );
	}
);

test(
	'connection test: each fault has its own words',
	function () {
		$base = array(
			'status'      => 0,
			'error'       => 'x',
			'retry_after' => 0,
			'is_server'   => false,
			'date'        => 0,
			'code'        => '',
			'ms'          => 3,
		);
		foreach ( array(
			array( array( 'error' => '' , 'status' => 200 ), 'ok', 'accepted a test event' ),
			array( array( 'error' => 'cURL error 60: SSL certificate problem: self-signed certificate' ), 'error', 'certificate must be valid' ),
			array( array( 'error' => 'cURL error 6: Could not resolve host: x' ), 'error', 'name' ),
			array( array( 'error' => 'cURL error 7: Failed to connect to 127.0.0.1 port 9: Connection refused' ), 'error', 'Nothing listens' ),
			array( array( 'error' => 'cURL error 28: Operation timed out after 5000 ms' ), 'error', 'firewall may drop' ),
			array( array( 'error' => 'User has blocked requests through HTTP.' ), 'error', 'blocked requests' ),
			array( array( 'status' => 401, 'is_server' => true, 'date' => 1000 ), 'error', 'another secret' ),
			array( array( 'status' => 401, 'is_server' => true, 'date' => 2000 ), 'error', 'clocks' ),
			array( array( 'status' => 301 ), 'error', 'redirects' ),
			array( array( 'status' => 404 ), 'error', '--site-secret-file' ),
			array( array( 'status' => 403 ), 'error', 'firewall' ),
			array( array( 'status' => 405 ), 'error', 'refuses POST' ),
			array( array( 'status' => 502 ), 'error', 'cannot reach the server' ),
			array( array( 'status' => 503, 'is_server' => true ), 'error', 'busy' ),
			array( array( 'status' => 200 ), 'error', 'Another web server' ),
			array( array( 'status' => 400, 'is_server' => true ), 'error', 'HTTP 400' ),
		) as $case ) {
			$row = Buddyline_Check::judge_sending( $case[0] + $base, 1000 );
			same( $case[1], $row['state'], $case[2] );
			truth( false !== strpos( $row['text'], $case[2] ), $case[2] . ' in: ' . $row['text'] );
		}
	}
);

test(
	'connection test: the way to the site',
	function () {
		$judge = function ( $response ) {
			return Buddyline_Check::judge_own_routes( $response, 't', 'u' );
		};
		same( 'ok', $judge( answer( 200, array( 'api' => 1, 'version' => '0.1.0' ) ) )['state'] );
		truth( false !== strpos( $judge( answer( 401, array( 'error' => 'unauthorized' ) ) )['text'], 'removes the header' ), '401' );
		truth( false !== strpos( $judge( answer( 403, '<html>' ) )['text'], 'refuses POST' ), '403' );
		truth( false !== strpos( $judge( answer( 404, '' ) )['text'], 'Permalinks' ), '404' );
		same( 'warning', $judge( new WP_Error( 'x', 'timed out' ) )['state'] );
		$state = Buddyline_State::load();
		same( 'error', Buddyline_Check::judge_receiving( $state, 1000000, false )['state'] );
		$state['last_request'] = 999990;
		same( 'ok', Buddyline_Check::judge_receiving( $state, 1000000, true )['state'] );
		$state['refused_at']  = 999995;
		$state['refused_why'] = 'clock';
		truth( false !== strpos( Buddyline_Check::judge_receiving( $state, 1000000, true )['text'], 'clocks' ), 'refused' );
	}
);

test(
	'connection test: its own request does not count as the server\'s',
	function () {
		start();
		call( 'POST buddyline/v1/status', request( array( 'self' => true ) ) );
		same( null, state( 'last_request' ) );
		call( 'POST buddyline/v1/status', request( array() ) );
		truth( (int) state( 'last_request' ) > 0, 'the server\'s' );
	}
);

test(
	'settings: the state in words',
	function () {
		$state = Buddyline_State::load();
		same( 'No event has been sent yet.', Buddyline_Settings::state_text( $state, 1000 ) );
		$state['last_ok'] = 990;
		truth( 0 === strpos( Buddyline_Settings::state_text( $state, 1000 ), 'Connected' ), 'connected' );
		$state = array( 'failures' => 2, 'last_error' => 'refused', 'last_error_at' => 995, 'missed' => 8 ) + $state;
		truth( false !== strpos( Buddyline_Settings::state_text( $state, 1000 ), 'refused. Not sent so far: 8' ), 'failing' );
		World::$options['buddyline_secret'] = '';
		truth( 0 === strpos( Buddyline_Settings::state_text( $state, 1000 ), 'Not set up' ), 'not set up' );
	}
);

test(
	'settings card: a wrong address changes nothing',
	function () {
		same( 'wss://new.example/x', Buddyline_Feature_Card::sanitize_url( 'https://new.example/x' ) );
		same( 'wss://community.example/live', Buddyline_Feature_Card::sanitize_url( 'javascript:alert(1)' ) );
		same( '', Buddyline_Feature_Card::sanitize_url( ' ' ) );
		same( 'http://127.0.0.1:8080', Buddyline_Feature_Card::sanitize_events_url( array() ) === '' ? 'http://127.0.0.1:8080' : 'x' );
	}
);

printf( "PHP %s: %d passed, %d failed\n", PHP_VERSION, $passed, $failed );
exit( $failed > 0 ? 1 : 0 );
