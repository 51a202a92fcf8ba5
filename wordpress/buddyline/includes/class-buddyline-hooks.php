<?php
/**
 * Turns BuddyBoss's and WordPress's hooks into events.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

/**
 * One method for each hook. None of them lets an exception out: a page never fails because of the plugin.
 */
final class Buddyline_Hooks {

	/**
	 * How many recipients an event names at most.
	 */
	const MAX_RECIPIENTS = 20000;

	/**
	 * How many users of one request get the number of their unread notifications; each costs a query.
	 */
	const MAX_COUNTED = 50;

	/**
	 * The queue.
	 *
	 * @var Buddyline_Queue
	 */
	private $queue;

	/**
	 * How many users had their notifications counted in this request.
	 *
	 * @var int
	 */
	private $counted = 0;

	/**
	 * Keeps the queue.
	 *
	 * @param Buddyline_Queue $queue Queue.
	 */
	public function __construct( $queue ) {
		$this->queue = $queue;
	}

	/**
	 * The hooks: name, method, priority and number of arguments.
	 *
	 * BuddyBoss removes recipients from the message at priority 10 (those who archived the thread), so
	 * ours comes first. It changes the members of a group's thread at 10, so ours comes after.
	 *
	 * @return array[]
	 */
	public static function table() {
		return array(
			array( 'messages_message_sent', 'message_sent', 0, 1 ),
			array( 'bp_messages_message_delete_thread', 'thread_deleted', 99, 2 ),
			array( 'bp_messages_thread_messages_after_update', 'messages_blanked', 99, 4 ),
			array( 'messages_thread_mark_as_read', 'thread_read', 99, 2 ),
			array( 'messages_thread_mark_as_unread', 'thread_unread', 99, 1 ),
			array( 'bb_messages_thread_archived', 'thread_archived', 99, 2 ),
			array( 'bb_messages_thread_unarchived', 'thread_unarchived', 99, 2 ),
			array( 'bp_moderation_after_save', 'user_blocked', 99, 1 ),
			array( 'bb_moderation_after_delete', 'user_unblocked', 99, 1 ),
			array( 'bp_suspend_hide_user', 'user_suspended', 99, 3 ),
			array( 'bp_suspend_unhide_user', 'user_unsuspended', 99, 4 ),
			array( 'groups_join_group', 'group_changed', 99, 2 ),
			array( 'groups_leave_group', 'group_changed', 99, 2 ),
			array( 'groups_remove_member', 'group_changed', 99, 2 ),
			array( 'groups_ban_member', 'group_changed', 99, 2 ),
			array( 'groups_unban_member', 'group_changed', 99, 2 ),
			array( 'groups_accept_invite', 'user_of_group_changed', 99, 2 ),
			array( 'groups_membership_accepted', 'user_of_group_changed', 99, 2 ),
			array( 'groups_banned_member', 'user_of_group_changed', 99, 2 ),
			array( 'groups_removed_member', 'user_of_group_changed', 99, 2 ),
			array( 'bb_group_messages_banned_member', 'thread_changed', 99, 2 ),
			array( 'bb_group_messages_unbanned_member', 'thread_changed', 99, 2 ),
			array( 'bp_notification_after_save', 'notification_saved', 99, 1 ),
			array( 'deleted_user', 'user_deleted', 99, 1 ),
			array( 'wpmu_delete_user', 'user_deleted', 99, 1 ),
			array( 'wp_logout', 'logged_out', 99, 1 ),
			array( 'update_user_meta', 'sessions_updated', 99, 4 ),
			array( 'delete_user_meta', 'sessions_deleted', 99, 3 ),
			array( 'wp_set_password', 'password_set', 99, 2 ),
			array( 'profile_update', 'profile_updated', 99, 2 ),
			array( 'wp_delete_application_password', 'application_password_deleted', 99, 2 ),
		);
	}

	/**
	 * Registers all hooks.
	 */
	public function register() {
		foreach ( self::table() as $hook ) {
			add_action( $hook[0], $this->guarded( $hook[1] ), $hook[2], $hook[3] );
		}
	}

	/**
	 * A callback that catches everything.
	 *
	 * @param string $method Method.
	 * @return callable
	 */
	private function guarded( $method ) {
		return function ( ...$arguments ) use ( $method ) {
			try {
				$this->$method( ...$arguments );
			} catch ( \Throwable $error ) {
				Buddyline_Plugin::log_fault( $method, $error );
			}
		};
	}

	/**
	 * A message was stored.
	 *
	 * @param mixed $message BP_Messages_Message.
	 */
	private function message_sent( $message ) {
		$message_id = self::id_of( $message, 'id' );
		$thread_id  = self::id_of( $message, 'thread_id' );
		$sender_id  = self::id_of( $message, 'sender_id' );
		if ( ! $message_id || ! $thread_id || ! $sender_id ) {
			return;
		}
		$recipients = array();
		foreach ( isset( $message->recipients ) ? (array) $message->recipients : array() as $recipient ) {
			$user_id = is_object( $recipient ) ? self::id_of( $recipient, 'user_id' ) : self::id( $recipient );
			if ( $user_id && $user_id !== $sender_id ) {
				$recipients[ $user_id ] = $user_id;
			}
			if ( count( $recipients ) >= self::MAX_RECIPIENTS ) {
				break;
			}
		}
		$event = array(
			'type'       => 'message',
			'threadId'   => $thread_id,
			'messageId'  => $message_id,
			'senderId'   => $sender_id,
			'recipients' => array_values( $recipients ),
			'sentAt'     => self::time_of( isset( $message->date_sent ) ? $message->date_sent : '' ),
			'text'       => isset( $message->message ) && is_scalar( $message->message ) ? (string) $message->message : '',
			'html'       => '',
			'hiddenFrom' => array(),
			'silent'     => ! empty( $message->mark_read ),
		);
		if ( isset( $message->subject ) && is_string( $message->subject ) && '' !== $message->subject ) {
			$event['subject'] = $message->subject;
		}
		$this->queue->put( 'message:' . $message_id, $event, array( $this, 'complete_message' ) );
	}

	/**
	 * Adds what is known only after the hook: BuddyBoss stores attachments and the kind of a notice then.
	 *
	 * @param array $event Event.
	 * @return array
	 */
	public function complete_message( $event ) {
		$message_id = $event['messageId'];
		if ( 'yes' === Buddyline_Site::message_meta( $message_id, 'group_message_group_joined' ) ) {
			$event['notice'] = 'join';
		} elseif ( 'yes' === Buddyline_Site::message_meta( $message_id, 'group_message_group_left' ) ) {
			$event['notice'] = 'left';
		}
		/** This filter is documented in BuddyBoss Platform, bp-messages/bp-messages-template.php. */
		$event['html'] = (string) apply_filters( 'bp_get_the_thread_message_content', $event['text'], $message_id ); // phpcs:ignore WordPress.NamingConventions.PrefixAllGlobals.NonPrefixedHooknameFound

		$attachments = array();
		foreach ( array(
			'photos'    => 'bp_media_ids',
			'videos'    => 'bp_video_ids',
			'documents' => 'bp_document_ids',
		) as $name => $key ) {
			$ids                  = Buddyline_Site::message_meta( $message_id, $key );
			$ids                  = is_array( $ids ) ? $ids : explode( ',', is_scalar( $ids ) ? (string) $ids : '' );
			$attachments[ $name ] = count( array_filter( $ids ) );
		}
		$attachments['gif'] = ! empty( Buddyline_Site::message_meta( $message_id, '_gif_data' ) );
		if ( array_filter( $attachments ) ) {
			$event['attachments'] = $attachments;
		}
		if ( $event['recipients'] ) {
			$event['hiddenFrom'] = Buddyline_Site::blocked( $event['senderId'], self::MAX_RECIPIENTS, $event['recipients'] );
		}
		return $event;
	}

	/**
	 * A thread was deleted. Its id will be used again.
	 *
	 * @param mixed $thread_id  Thread.
	 * @param mixed $recipients Rows of its recipients.
	 */
	private function thread_deleted( $thread_id, $recipients ) {
		$thread_id = self::id( $thread_id );
		if ( ! $thread_id ) {
			return;
		}
		$users = array();
		foreach ( is_array( $recipients ) ? array_slice( $recipients, 0, self::MAX_RECIPIENTS, true ) : array() as $key => $recipient ) {
			$user_id = is_object( $recipient ) ? self::id_of( $recipient, 'user_id' ) : self::id( is_array( $recipient ) && isset( $recipient['user_id'] ) ? $recipient['user_id'] : $key );
			if ( $user_id ) {
				$users[ $user_id ] = $user_id;
			}
		}
		$this->queue->put(
			'thread_deleted:' . $thread_id,
			array(
				'type'       => 'thread_deleted',
				'threadId'   => $thread_id,
				'recipients' => array_values( $users ),
			)
		);
	}

	/**
	 * A member removed the text of own messages.
	 *
	 * @param mixed $thread_id  Thread.
	 * @param mixed $all_ids    All messages of the thread.
	 * @param mixed $user_id    Member.
	 * @param mixed $message_ids The blanked messages.
	 */
	private function messages_blanked( $thread_id, $all_ids, $user_id, $message_ids ) {
		$thread_id   = self::id( $thread_id );
		$user_id     = self::id( $user_id );
		$message_ids = is_array( $message_ids ) ? self::ids( $message_ids ) : array();
		if ( ! $thread_id || ! $user_id || ! $message_ids ) {
			return;
		}
		$this->queue->put(
			'blanked:' . $thread_id . ':' . $user_id,
			array(
				'type'       => 'blanked',
				'threadId'   => $thread_id,
				'userId'     => $user_id,
				'messageIds' => $message_ids,
			)
		);
	}

	/**
	 * A member read a thread.
	 *
	 * @param mixed $thread_id Thread.
	 * @param mixed $user_id   Member.
	 */
	private function thread_read( $thread_id, $user_id = 0 ) {
		$this->put_of_thread( 'read', 'read', $thread_id, $user_id );
	}

	/**
	 * A member marked a thread as unread. The hook does not say who.
	 *
	 * @param mixed $thread_id Thread.
	 */
	private function thread_unread( $thread_id ) {
		$this->put_of_thread( 'unread', 'read', $thread_id, Buddyline_Site::acting_user() );
	}

	/**
	 * A member archived a thread.
	 *
	 * @param mixed $thread_id Thread.
	 * @param mixed $user_id   Member.
	 */
	private function thread_archived( $thread_id, $user_id ) {
		$this->put_of_thread( 'archived', 'archived', $thread_id, $user_id );
	}

	/**
	 * A member took a thread out of the archive.
	 *
	 * @param mixed $thread_id Thread.
	 * @param mixed $user_id   Member.
	 */
	private function thread_unarchived( $thread_id, $user_id ) {
		$this->put_of_thread( 'unarchived', 'archived', $thread_id, $user_id );
	}

	/**
	 * Queues an event about one thread of one member. The last of a pair such as read and unread wins.
	 *
	 * @param string $type      Type of the event.
	 * @param string $pair      Name of the pair.
	 * @param mixed  $thread_id Thread.
	 * @param mixed  $user_id   Member.
	 */
	private function put_of_thread( $type, $pair, $thread_id, $user_id ) {
		$thread_id = self::id( $thread_id );
		$user_id   = self::id( $user_id );
		if ( ! $user_id ) {
			$user_id = Buddyline_Site::acting_user();
		}
		if ( ! $thread_id || ! $user_id ) {
			return;
		}
		$this->queue->put(
			$pair . ':' . $thread_id . ':' . $user_id,
			array(
				'type'     => $type,
				'threadId' => $thread_id,
				'userId'   => $user_id,
			),
			function ( $event ) {
				$event['unreadTotal'] = Buddyline_Site::unread_messages( $event['userId'] );
				if ( 'read' === $event['type'] ) {
					$newest = Buddyline_Site::newest_message( $event['threadId'] );
					if ( $newest ) {
						$event['upTo'] = $newest;
					}
				}
				return $event;
			}
		);
	}

	/**
	 * A report or a block was stored. Only blocks of members matter.
	 *
	 * @param mixed $moderation BP_Moderation.
	 */
	private function user_blocked( $moderation ) {
		$this->put_block( 'block', $moderation );
	}

	/**
	 * A report or a block was removed.
	 *
	 * @param mixed $moderation BP_Moderation.
	 */
	private function user_unblocked( $moderation ) {
		$this->put_block( 'unblock', $moderation );
	}

	/**
	 * Queues a block or its end.
	 *
	 * @param string $type       Type of the event.
	 * @param mixed  $moderation BP_Moderation.
	 */
	private function put_block( $type, $moderation ) {
		$user_id    = self::id_of( $moderation, 'user_id' );
		$blocked_id = self::id_of( $moderation, 'item_id' );
		if ( ! $user_id || ! $blocked_id || ! isset( $moderation->item_type ) || 'user' !== $moderation->item_type || ! empty( $moderation->user_report ) ) {
			return;
		}
		$this->queue->put(
			'block:' . $user_id . ':' . $blocked_id,
			array(
				'type'      => $type,
				'userId'    => $user_id,
				'blockedId' => $blocked_id,
			)
		);
	}

	/**
	 * A member was suspended. A block of a member fires the same hook, without an action.
	 *
	 * @param mixed $user_id   Member.
	 * @param mixed $hide      Whether it is hidden on the whole site.
	 * @param mixed $arguments Arguments.
	 */
	private function user_suspended( $user_id, $hide = 0, $arguments = array() ) {
		if ( is_array( $arguments ) && isset( $arguments['action'] ) && 'suspended' === $arguments['action'] ) {
			$this->put_of_user( 'suspended', 'suspended', $user_id );
		}
	}

	/**
	 * A member is no longer suspended.
	 *
	 * @param mixed $user_id   Member.
	 * @param mixed $hide      Whether it is hidden on the whole site.
	 * @param mixed $force     Whether all hide it.
	 * @param mixed $arguments Arguments.
	 */
	private function user_unsuspended( $user_id, $hide = 0, $force = 0, $arguments = array() ) {
		if ( is_array( $arguments ) && isset( $arguments['action'] ) && 'unsuspended' === $arguments['action'] ) {
			$this->put_of_user( 'unsuspended', 'suspended', $user_id );
		}
	}

	/**
	 * An account was deleted.
	 *
	 * @param mixed $user_id Member.
	 */
	private function user_deleted( $user_id ) {
		$this->put_of_user( 'deleted', 'deleted', $user_id );
	}

	/**
	 * Queues an event about a member.
	 *
	 * @param string $type    Type of the event.
	 * @param string $pair    Name of the pair.
	 * @param mixed  $user_id Member.
	 * @param string $sid     Session, or an empty text for all.
	 */
	private function put_of_user( $type, $pair, $user_id, $sid = '' ) {
		$user_id = self::id( $user_id );
		if ( ! $user_id ) {
			return;
		}
		$event = array(
			'type'   => $type,
			'userId' => $user_id,
		);
		if ( '' !== $sid ) {
			$event['sid'] = $sid;
		}
		$this->queue->put( $pair . ':' . $user_id . ':' . $sid, $event );
	}

	/**
	 * Someone joined, left, or was removed from a group.
	 *
	 * @param mixed $group_id Group.
	 * @param mixed $user_id  Member.
	 */
	private function group_changed( $group_id, $user_id ) {
		$group_id = self::id( $group_id );
		if ( $group_id ) {
			$this->thread_changed( Buddyline_Site::group_thread( $group_id ), $user_id );
		}
	}

	/**
	 * The same for hooks that name the member first.
	 *
	 * @param mixed $user_id  Member.
	 * @param mixed $group_id Group.
	 */
	private function user_of_group_changed( $user_id, $group_id ) {
		$this->group_changed( $group_id, $user_id );
	}

	/**
	 * Queues a question whether a member takes part in a thread. The table answers it when the events
	 * are sent, because not every one of these hooks has changed the thread (a ban outside wp-admin).
	 *
	 * @param mixed $thread_id Thread.
	 * @param mixed $user_id   Member.
	 */
	private function thread_changed( $thread_id, $user_id ) {
		$thread_id = self::id( $thread_id );
		$user_id   = self::id( $user_id );
		if ( ! $thread_id || ! $user_id ) {
			return;
		}
		$this->queue->put(
			'participants:' . $thread_id . ':' . $user_id,
			array(
				'type'     => 'participants',
				'threadId' => $thread_id,
				'added'    => array( $user_id ),
				'removed'  => array(),
			),
			function ( $event ) {
				if ( ! Buddyline_Site::participants( $event['threadId'], $event['added'] ) ) {
					$event['removed'] = $event['added'];
					$event['added']   = array();
				}
				return $event;
			}
		);
	}

	/**
	 * A notification was stored. Later changes of it, such as reading, are none.
	 *
	 * @param mixed $notification BP_Notifications_Notification.
	 */
	private function notification_saved( $notification ) {
		$user_id = self::id_of( $notification, 'user_id' );
		if ( ! $user_id || empty( $notification->id ) || empty( $notification->inserted ) || empty( $notification->is_new ) ) {
			return;
		}
		$component = isset( $notification->component_name ) && is_scalar( $notification->component_name ) ? (string) $notification->component_name : '';
		$action    = isset( $notification->component_action ) && is_scalar( $notification->component_action ) ? (string) $notification->component_action : '';
		$this->queue->put(
			'notification:' . $user_id . ':' . $component . ':' . $action,
			array(
				'type'      => 'notification',
				'userId'    => $user_id,
				'component' => substr( $component, 0, 100 ),
				'action'    => substr( $action, 0, 100 ),
			),
			function ( $event ) {
				if ( $this->counted < self::MAX_COUNTED ) {
					++$this->counted;
					$event['unreadTotal'] = Buddyline_Site::unread_notifications( $event['userId'] );
				}
				return $event;
			}
		);
	}

	/**
	 * A member signed out.
	 *
	 * @param mixed $user_id Member.
	 */
	private function logged_out( $user_id = 0 ) {
		$sid = Buddyline_Session::of_token( wp_get_session_token() );
		if ( '' !== $sid ) {
			$this->put_of_user( 'signed_out', 'signed_out', $user_id, $sid );
		}
	}

	/**
	 * The list of login sessions changes: those that are gone are signed out ("everywhere else").
	 *
	 * @param mixed $meta_id Row.
	 * @param mixed $user_id Member.
	 * @param mixed $key     Key.
	 * @param mixed $value   New value.
	 */
	private function sessions_updated( $meta_id, $user_id, $key, $value ) {
		if ( 'session_tokens' === $key ) {
			$this->put_ended_sessions( $user_id, is_array( $value ) ? $value : array() );
		}
	}

	/**
	 * All login sessions end.
	 *
	 * @param mixed $meta_ids Rows.
	 * @param mixed $user_id  Member.
	 * @param mixed $key      Key.
	 */
	private function sessions_deleted( $meta_ids, $user_id, $key ) {
		if ( 'session_tokens' === $key ) {
			$this->put_ended_sessions( $user_id, array() );
		}
	}

	/**
	 * Queues the end of sessions that are not in the new list and had not expired.
	 *
	 * @param mixed $user_id Member.
	 * @param array $left    Sessions that stay, by verifier.
	 */
	private function put_ended_sessions( $user_id, $left ) {
		$sessions = get_user_meta( self::id( $user_id ), 'session_tokens', true );
		$ended    = 0;
		foreach ( is_array( $sessions ) ? array_diff_key( $sessions, $left ) : array() as $verifier => $session ) {
			$expires = is_array( $session ) && isset( $session['expiration'] ) ? (int) $session['expiration'] : (int) $session;
			if ( $expires < time() ) {
				continue;
			}
			if ( ++$ended > 100 ) {
				$this->put_of_user( 'signed_out', 'signed_out', $user_id );
				return;
			}
			$this->put_of_user( 'signed_out', 'signed_out', $user_id, Buddyline_Session::of_verifier( (string) $verifier ) );
		}
	}

	/**
	 * A password was set: every cookie with the old one is invalid.
	 *
	 * @param mixed $password Password; not used.
	 * @param mixed $user_id  Member.
	 */
	private function password_set( $password, $user_id = 0 ) {
		$this->put_of_user( 'signed_out', 'signed_out', $user_id );
	}

	/**
	 * A profile was saved.
	 *
	 * @param mixed $user_id Member.
	 * @param mixed $before  WP_User before the change.
	 */
	private function profile_updated( $user_id, $before = null ) {
		$user = get_userdata( self::id( $user_id ) );
		if ( $user && is_object( $before ) && isset( $before->user_pass, $user->user_pass ) && $before->user_pass !== $user->user_pass ) {
			$this->put_of_user( 'signed_out', 'signed_out', $user_id );
		}
	}

	/**
	 * An application password was revoked.
	 *
	 * @param mixed $user_id  Member.
	 * @param mixed $password Its record.
	 */
	private function application_password_deleted( $user_id, $password ) {
		if ( is_array( $password ) && isset( $password['uuid'] ) && is_string( $password['uuid'] ) ) {
			$this->put_of_user( 'signed_out', 'signed_out', $user_id, Buddyline_Session::of_application_password( $password['uuid'] ) );
		}
	}

	/**
	 * A positive whole number, or 0.
	 *
	 * @param mixed $value Value.
	 * @return int
	 */
	private static function id( $value ) {
		if ( is_string( $value ) && ! ctype_digit( $value ) ) {
			return 0;
		}
		return is_int( $value ) || is_string( $value ) ? max( 0, (int) $value ) : 0;
	}

	/**
	 * The same of an object's property.
	 *
	 * @param mixed  $subject Object.
	 * @param string $name    Property.
	 * @return int
	 */
	private static function id_of( $subject, $name ) {
		return is_object( $subject ) && isset( $subject->$name ) ? self::id( $subject->$name ) : 0;
	}

	/**
	 * The positive whole numbers of a list, each once.
	 *
	 * @param array $values Values.
	 * @return int[]
	 */
	private static function ids( $values ) {
		return array_values( array_unique( array_filter( array_map( array( __CLASS__, 'id' ), $values ) ) ) );
	}

	/**
	 * Turns the date of a message, which is UTC, into the form of events.
	 *
	 * @param mixed $date "Y-m-d H:i:s".
	 * @return string
	 */
	private static function time_of( $date ) {
		if ( is_string( $date ) && 1 === preg_match( '/^(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)/', $date, $match ) ) {
			return $match[1] . 'T' . $match[2] . 'Z';
		}
		return gmdate( 'Y-m-d\TH:i:s\Z' );
	}
}
