<?php
/**
 * Stands in for BuddyBoss Platform on the WordPress of tests/wordpress/run: a must-use plugin with the
 * tables and the few functions that the plugin uses, written for these tests. It fires hooks with recorded
 * objects when a request brings them.
 */

define( 'BP_PLATFORM_VERSION', '3.4.1' );

function buddypress() {
	global $wpdb;
	static $bp = null;
	if ( null === $bp ) {
		$bp = (object) array(
			'messages'   => (object) array(
				'table_name_recipients' => $wpdb->prefix . 'bp_messages_recipients',
				'table_name_messages'   => $wpdb->prefix . 'bp_messages_messages',
			),
			'moderation' => (object) array(
				'table_name'         => $wpdb->prefix . 'bp_moderation',
				'table_name_reports' => $wpdb->prefix . 'bp_moderation_reports',
			),
		);
	}
	return $bp;
}

function stand_in_tables() {
	global $wpdb;
	$bp = buddypress();
	foreach ( array(
		"{$bp->messages->table_name_recipients} ( id bigint AUTO_INCREMENT PRIMARY KEY, user_id bigint, thread_id bigint, unread_count int DEFAULT 0, is_deleted tinyint DEFAULT 0, is_hidden tinyint DEFAULT 0 )",
		"{$bp->messages->table_name_messages} ( id bigint PRIMARY KEY, thread_id bigint, sender_id bigint )",
		"{$bp->moderation->table_name} ( id bigint AUTO_INCREMENT PRIMARY KEY, item_id bigint, item_type varchar(42), reported tinyint )",
		"{$bp->moderation->table_name_reports} ( id bigint AUTO_INCREMENT PRIMARY KEY, moderation_id bigint, user_id bigint, user_report tinyint DEFAULT 0 )",
		"{$wpdb->prefix}bp_notifications ( id bigint AUTO_INCREMENT PRIMARY KEY, user_id bigint, item_id bigint, secondary_item_id bigint, component_name varchar(75), component_action varchar(75), is_new tinyint )",
	) as $table ) {
		$wpdb->query( "CREATE TABLE IF NOT EXISTS $table" );
	}
}

function bp_is_active( $component ) {
	return true;
}
function bp_is_moderation_member_blocking_enable( $fallback ) {
	return true;
}
function bp_moderation_is_user_suspended( $user_id ) {
	return (bool) get_user_meta( $user_id, 'suspended', true );
}
function messages_get_unread_count( $user_id ) {
	global $wpdb;
	return (int) $wpdb->get_var( $wpdb->prepare( 'SELECT SUM( unread_count ) FROM ' . buddypress()->messages->table_name_recipients . ' WHERE user_id = %d AND is_hidden = 0', $user_id ) );
}
function bp_notifications_get_unread_notification_count( $user_id ) {
	global $wpdb;
	return (int) $wpdb->get_var( $wpdb->prepare( "SELECT COUNT(*) FROM {$wpdb->prefix}bp_notifications WHERE user_id = %d AND is_new = 1", $user_id ) );
}
function bp_notifications_add_notification( $arguments ) {
	global $wpdb;
	$row = array_intersect_key( $arguments, array_flip( array( 'user_id', 'item_id', 'secondary_item_id', 'component_name', 'component_action', 'is_new' ) ) );
	$wpdb->insert( $wpdb->prefix . 'bp_notifications', $row );
	$row['id']       = $wpdb->insert_id;
	$row['inserted'] = true;
	$notification    = (object) $row;
	do_action_ref_array( 'bp_notification_after_save', array( &$notification ) );
	return $row['id'];
}
function bp_notifications_delete_notifications_by_item_id( $user_id, $item_id, $component, $action, $secondary_item_id ) {
	global $wpdb;
	$wpdb->delete( $wpdb->prefix . 'bp_notifications', array( 'user_id' => $user_id, 'item_id' => $item_id, 'component_name' => $component, 'component_action' => $action, 'secondary_item_id' => $secondary_item_id ) );
}
function bp_displayed_user_id() {
	return 0;
}
function bp_loggedin_user_id() {
	return get_current_user_id();
}
function groups_get_groupmeta( $group_id, $key ) {
	return 1 === (int) $group_id ? '21' : '';
}
function bp_messages_get_meta( $message_id, $key, $single ) {
	$meta = get_option( 'stand_in_meta', array() );
	return isset( $meta[ $message_id ][ $key ] ) ? $meta[ $message_id ][ $key ] : '';
}
function bp_update_user_last_activity( $user_id, $time ) {
	update_user_meta( $user_id, 'last_activity', $time );
}
class BP_Core_User {
	public static function get_last_activity( $ids ) {
		$known = array();
		foreach ( $ids as $id ) {
			$time         = get_user_meta( $id, 'last_activity', true );
			$known[ $id ] = $time ? array( 'date_recorded' => $time ) : false;
		}
		return $known;
	}
}

add_filter(
	'bp_get_the_thread_message_content',
	function ( $text ) {
		return wpautop( $text );
	}
);

function stand_in_revive( $value ) {
	if ( ! is_array( $value ) ) {
		return $value;
	}
	$class = isset( $value['@class'] );
	unset( $value['@class'] );
	$value = array_map( 'stand_in_revive', $value );
	return $class ? (object) $value : $value;
}

// POST /?stand-in with {sql: [], hooks: [{hook, args}], php: "…"}: what happens on a page of the site.
add_action(
	'init',
	function () {
		if ( ! isset( $_GET['stand-in'] ) ) {
			return;
		}
		stand_in_tables();
		global $wpdb;
		$body   = json_decode( file_get_contents( 'php://input' ), true );
		$result = null;
		foreach ( isset( $body['sql'] ) ? $body['sql'] : array() as $sql ) {
			$result = $wpdb->get_results( str_replace( '{bp}', $wpdb->prefix . 'bp_', $sql ) );
		}
		foreach ( isset( $body['hooks'] ) ? $body['hooks'] : array() as $hook ) {
			do_action( $hook['hook'], ...array_map( 'stand_in_revive', $hook['args'] ) );
		}
		if ( isset( $body['php'] ) ) {
			$result = eval( $body['php'] );
		}
		wp_send_json( array( 'result' => $result ) );
	},
	99
);
