<?php
/**
 * Looks up what events and tickets need in BuddyBoss's tables and functions.
 *
 * @package Buddyline
 */

defined( 'ABSPATH' ) || exit;

// phpcs:disable WordPress.DB.PreparedSQL.InterpolatedNotPrepared, WordPress.DB.DirectDatabaseQuery -- BuddyBoss has no function for these, or one that caches for the whole request; names of tables have no placeholder.

/**
 * Questions to the site.
 */
final class Buddyline_Site {

	/**
	 * BuddyBoss's name of a table.
	 *
	 * @param string $component Component.
	 * @param string $table     Property.
	 * @return string Name, or an empty text while the component is off.
	 */
	private static function table( $component, $table ) {
		if ( ! function_exists( 'buddypress' ) || ! bp_is_active( $component ) ) {
			return '';
		}
		$bp = buddypress();
		return isset( $bp->$component->$table ) ? (string) $bp->$component->$table : '';
	}

	/**
	 * The users of these who take part in a thread now.
	 *
	 * @param int   $thread_id Thread.
	 * @param int[] $user_ids  Users.
	 * @return int[]
	 */
	public static function participants( $thread_id, $user_ids ) {
		global $wpdb;
		$table = self::table( 'messages', 'table_name_recipients' );
		if ( '' === $table || ! $user_ids ) {
			return array();
		}
		$list = implode( ',', array_map( 'intval', $user_ids ) );
		$rows = $wpdb->get_col( $wpdb->prepare( "SELECT user_id FROM {$table} WHERE thread_id = %d AND is_deleted = 0 AND user_id IN ( {$list} )", $thread_id ) );
		return array_values( array_unique( array_map( 'intval', (array) $rows ) ) );
	}

	/**
	 * The threads of a user, those with the newest messages first.
	 *
	 * @param int $user_id User.
	 * @param int $limit   How many at most.
	 * @return int[]
	 */
	public static function threads( $user_id, $limit ) {
		global $wpdb;
		$recipients = self::table( 'messages', 'table_name_recipients' );
		$messages   = self::table( 'messages', 'table_name_messages' );
		if ( '' === $recipients || '' === $messages ) {
			return array();
		}
		$rows = $wpdb->get_col( $wpdb->prepare( "SELECT r.thread_id FROM {$recipients} r WHERE r.user_id = %d AND r.is_deleted = 0 GROUP BY r.thread_id ORDER BY ( SELECT MAX( m.id ) FROM {$messages} m WHERE m.thread_id = r.thread_id ) DESC LIMIT %d", $user_id, $limit ) );
		return array_map( 'intval', (array) $rows );
	}

	/**
	 * The newest message of a thread.
	 *
	 * @param int $thread_id Thread.
	 * @return int 0 if there is none.
	 */
	public static function newest_message( $thread_id ) {
		global $wpdb;
		$table = self::table( 'messages', 'table_name_messages' );
		return '' === $table ? 0 : (int) $wpdb->get_var( $wpdb->prepare( "SELECT MAX( id ) FROM {$table} WHERE thread_id = %d", $thread_id ) );
	}

	/**
	 * The users whom a user has blocked, and those who have blocked this user. The question goes to the
	 * table, because BuddyBoss's own functions answer from caches that a block of this request is not in.
	 *
	 * @param int   $user_id User.
	 * @param int   $limit   How many at most.
	 * @param int[] $among   Only these users; empty for all.
	 * @return int[]
	 */
	public static function blocked( $user_id, $limit, $among = array() ) {
		global $wpdb;
		$items   = self::table( 'moderation', 'table_name' );
		$reports = self::table( 'moderation', 'table_name_reports' );
		if ( '' === $items || '' === $reports ) {
			return array();
		}
		if ( function_exists( 'bp_is_moderation_member_blocking_enable' ) && ! bp_is_moderation_member_blocking_enable( 0 ) ) {
			return array();
		}
		$by_user = '';
		$of_user = '';
		if ( $among ) {
			$list    = implode( ',', array_map( 'intval', $among ) );
			$by_user = " AND s.item_id IN ( {$list} )";
			$of_user = " AND r.user_id IN ( {$list} )";
		}
		$is_block = "s.item_type = 'user' AND s.reported <> 0 AND r.user_report = 0";
		$rows     = $wpdb->get_col( $wpdb->prepare( "( SELECT s.item_id FROM {$items} s JOIN {$reports} r ON r.moderation_id = s.id WHERE {$is_block} AND r.user_id = %d{$by_user} ) UNION ( SELECT r.user_id FROM {$items} s JOIN {$reports} r ON r.moderation_id = s.id WHERE {$is_block} AND s.item_id = %d{$of_user} ) LIMIT %d", $user_id, $user_id, $limit ) );
		return array_values( array_filter( array_map( 'intval', (array) $rows ) ) );
	}

	/**
	 * Whether a member is suspended.
	 *
	 * @param int $user_id User.
	 * @return bool
	 */
	public static function is_suspended( $user_id ) {
		return function_exists( 'bp_moderation_is_user_suspended' ) && bp_is_active( 'moderation' ) && (bool) bp_moderation_is_user_suspended( $user_id );
	}

	/**
	 * A member's number of unread messages.
	 *
	 * @param int $user_id User.
	 * @return int
	 */
	public static function unread_messages( $user_id ) {
		if ( ! function_exists( 'messages_get_unread_count' ) ) {
			return 0;
		}
		wp_cache_delete( $user_id, 'bp_messages_unread_count' );
		return (int) messages_get_unread_count( $user_id );
	}

	/**
	 * A member's number of unread notifications.
	 *
	 * @param int $user_id User.
	 * @return int
	 */
	public static function unread_notifications( $user_id ) {
		return function_exists( 'bp_notifications_get_unread_notification_count' ) ? (int) bp_notifications_get_unread_notification_count( $user_id ) : 0;
	}

	/**
	 * The member whose page or action this is, as BuddyBoss decides it.
	 *
	 * @return int
	 */
	public static function acting_user() {
		$displayed = function_exists( 'bp_displayed_user_id' ) ? (int) bp_displayed_user_id() : 0;
		if ( $displayed > 0 ) {
			return $displayed;
		}
		return function_exists( 'bp_loggedin_user_id' ) ? (int) bp_loggedin_user_id() : get_current_user_id();
	}

	/**
	 * The message thread of a group.
	 *
	 * @param int $group_id Group.
	 * @return int 0 if it has none.
	 */
	public static function group_thread( $group_id ) {
		return function_exists( 'groups_get_groupmeta' ) ? (int) groups_get_groupmeta( $group_id, 'group_message_thread' ) : 0;
	}

	/**
	 * A value stored with a message.
	 *
	 * @param int    $message_id Message.
	 * @param string $key        Key.
	 * @return mixed
	 */
	public static function message_meta( $message_id, $key ) {
		return function_exists( 'bp_messages_get_meta' ) ? bp_messages_get_meta( $message_id, $key, true ) : '';
	}
}
